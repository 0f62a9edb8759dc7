"""Train a CIFAR-10 classifier while an exponential moving average shadows its weights; compare both.

    python train.py                                           # CIFAR-10, the guide's settings, 20 epochs
    python train.py --dataset synthetic --width 0.25 --epochs 4   # no download, a minute on two cores
    python train.py --resume --run_dir runs/20260101-120000    # go on where a run stopped

After Rui Shu, "Exponential moving average for improved classification". The guide itself is `train_step` and
`build` below: train the raw network, apply the EMA strictly after the optimiser's step, rebuild the classifier
from the shadow variables through a custom getter.
"""

import flags as command_line
from errors import UserError, exit_status

if __name__ == "__main__":
    FLAGS = command_line.parse()  # before TensorFlow's import, which takes seconds

import functools
import os
import platform
import sys
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf
import tqdm
import tqdm.contrib.logging

import data
import devices
import runs
import signals
from ema import check_replaced, ema_getter
from model import classifier
from runs import log

STEPS_PER_RUN = 10  # one session.run drives this many; a signal or the progress bar waits for it
TEST_BATCH = 500


# ---------------------------------------------------------------------------------------------------------------
# The graph


def train_step(network, x, labels, seed, step, optimizer, ema):
    """One step, in the guide's order: batch statistics, then the optimiser, then the moving average.

    Args:
      network: `classifier` with this run's width, dropout rate and precision.
      x, labels: a batch, [N, 32, 32, 3] float32 and [N] int64.
      seed: of dropout, int32 or int64 [2].
      step: the global step variable; minimize() increments it.

    Returns:
      (loss, correct): scalars float32 and int64, available when everything above is done.
    """
    train_logits = network(x, phase=True, reuse=True, internal_update=False, seed=seed)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=train_logits))
    var_class = tf.get_collection("trainable_variables", "class")
    with tf.control_dependencies(tf.get_collection("update_ops")):
        train_op = optimizer.minimize(loss, global_step=step, var_list=var_class)
    with tf.control_dependencies([train_op]):  # the guide grouped the two, and they raced
        ema_op = ema.apply(var_class)
    with tf.control_dependencies([ema_op]):
        correct = tf.math.count_nonzero(tf.equal(tf.argmax(train_logits, 1), labels))
        return tf.identity(loss), correct


class Graph(NamedTuple):
    """What the training loop and evaluate.py need of the graph."""

    feeds: dict  # for local_variables_initializer: the images and labels
    step: tf.Variable
    until: tf.Tensor  # placeholder: `train` stops at this step
    train: tf.Tensor  # runs steps; yields the new step
    shuffle: tf.Operation  # draws the order of the epoch that `step` is in
    sums: tuple  # loss and correct answers, summed over the steps since `reset`
    reset: tf.Operation
    logits: dict  # label to test logits [N, 10] float32
    ema: tf.train.ExponentialMovingAverage
    saver: tf.train.Saver
    parameters: int


def build(flags, dataset, precision):
    """Builds the whole graph in the default graph: data on the device, the training loop, the test classifiers."""
    tf.set_random_seed(flags.seed)
    network = functools.partial(classifier, width=flags.width, dropout_rate=flags.dropout, dtype=tf.as_dtype(precision))
    # The first use creates the variables. It comes first of all, so that nothing else shifts their random seeds.
    network(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False)
    step = tf.train.get_or_create_global_step()
    optimizer = tf.train.AdamOptimizer(flags.learning_rate, beta1=flags.adam_beta1)
    ema = tf.train.ExponentialMovingAverage(decay=flags.ema_decay)

    batch, shuffle, feeds = batches(flags, dataset.train, step)
    one_step = functools.partial(train_step, network, step=step, optimizer=optimizer, ema=ema)
    until, train, sums, reset = training_loop(one_step, batch, step)

    images, feed = data.resident(dataset.test.images, "test_images")
    feeds |= feed
    getter = ema_getter(ema)
    raw_classifier = functools.partial(network, phase=False, reuse=True)
    ema_classifier = functools.partial(network, phase=False, reuse=True, getter=getter)
    test_size = len(dataset.test.labels)
    logits = {
        label: data.map_images(function, images, test_size, min(TEST_BATCH, test_size))
        for label, function in (("raw", raw_classifier), (f"ema/{flags.ema_decay}/raw", ema_classifier))
    }
    var_class = tf.get_collection("trainable_variables", "class")
    check_replaced(getter, var_class)
    parameters = sum(int(np.prod(variable.shape)) for variable in var_class)
    saver = tf.train.Saver(tf.global_variables(), max_to_keep=None)
    return Graph(feeds, step, until, train, shuffle, sums, reset, logits, ema, saver, parameters)


def batches(flags, split, step):
    """The training batches, gathered on the device.

    Returns:
      (batch, shuffle, feeds): a function from the step to (images, labels, dropout seed), the operation that draws
      the order of the current epoch, and the feeds of the resident arrays.
    """
    size = len(split.labels)
    epoch_steps = size // flags.batch_size
    images, image_feed = data.resident(split.images, "train_images")
    labels, label_feed = data.resident(split.labels, "train_labels")
    order, order_feed = data.resident(np.arange(size), "train_order")
    shuffle = order.assign(data.epoch_order(flags.seed, step // epoch_steps, size)).op

    def batch(now):
        start = now % epoch_steps * flags.batch_size
        indices = tf.reshape(tf.slice(order, [start], [flags.batch_size]), [flags.batch_size])
        seeds = tf2.random.split(tf.stack([tf.constant(flags.seed, tf.int64), now]), 2)
        x = tf.gather(images, indices)
        if flags.augment:
            x = data.augment(x, seeds[0])
        return data.to_float(x), tf.gather(labels, indices), seeds[1]

    return batch, shuffle, image_feed | label_feed | order_feed


def training_loop(one_step, batch, step):
    """Many steps in one session.run: a loop on the device, from the current step up to a placeholder.

    Returns:
      (until, train, sums, reset), as in `Graph`.
    """
    until = tf.placeholder(tf.int64, [], name="until")
    loss_sum = tf.get_variable("loss_sum", [], initializer=tf.zeros_initializer(), trainable=False)
    correct_sum = tf.get_variable("correct_sum", [], tf.int64, initializer=tf.zeros_initializer(), trainable=False)

    def body(now, losses, corrects):
        x, labels, seed = batch(now)
        loss, correct = one_step(x, labels, seed)
        return now + 1, losses + loss, corrects + correct

    # One iteration at a time: the reads of the next must see the writes of this one.
    now, losses, corrects = tf.while_loop(
        lambda now, *_: now < until,
        body,
        [step.read_value(), loss_sum.read_value(), correct_sum.read_value()],
        parallel_iterations=1,
    )
    with tf.control_dependencies([loss_sum.assign(losses), correct_sum.assign(corrects)]):
        train = tf.identity(now)
    reset = tf.group(loss_sum.assign(0), correct_sum.assign(0))
    return until, train, (loss_sum, correct_sum), reset


# ---------------------------------------------------------------------------------------------------------------
# The run


def main(flags):
    """Trains, evaluates, and writes the run directory.

    Raises:
      UserError: what the user has to mend, or a signal that ended the run early.
    """
    device = devices.choose(flags.device)
    precision = devices.choose_precision(flags.precision, device)
    runs.check_directory(flags.run_dir, flags.resume)  # before the data is loaded, and perhaps downloaded
    dataset = data.load(flags.dataset, flags.data_dir, flags.train_size, flags.test_size)
    if flags.batch_size > len(dataset.train.labels):
        raise UserError(
            f"--batch_size {flags.batch_size} is more than the {len(dataset.train.labels)} training images", 2
        )
    path = runs.open_directory(flags.run_dir)
    runs.write_json(path / "config.json", config(flags, device, precision))
    with tf.Graph().as_default():
        graph = build(flags, dataset, precision)
        log_start(flags, device, precision, dataset, graph, path)
        with devices.session() as session, signals.graceful() as stop:
            session.run(tf.global_variables_initializer())
            session.run(tf.local_variables_initializer(), graph.feeds)
            rows = Run(flags, dataset, graph, session, path, stop).train()
    summary = {
        **rows[-1],
        "gain": rows[-1]["ema_accuracy"] - rows[-1]["raw_accuracy"],
        "parameters": graph.parameters,
        "device": device.description,
        "precision": precision,
    }
    runs.write_json(path / "summary.json", summary)
    runs.draw_curves(path, rows)
    log.info(
        f"done: raw {100 * summary['raw_accuracy']:.2f}%, EMA {100 * summary['ema_accuracy']:.2f}%, "
        f"gain {100 * summary['gain']:+.2f} after {summary['epoch']} epochs; everything is in {path}"
    )


def config(flags, device, precision):
    return {
        "flags": vars(flags),
        "precision": precision,
        "device": device.description,
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__},
        "git_commit": runs.git_commit(),
    }


def log_start(flags, device, precision, dataset, graph, path):
    log.info(f"device     {device.description}")
    log.info(f"precision  {precision} convolutions, float32 variables")
    log.info(f"data       {dataset.source}")
    log.info(f"network    {graph.parameters:,} trainable parameters, width {flags.width:g}, dropout {flags.dropout:g}")
    epoch_steps = len(dataset.train.labels) // flags.batch_size
    log.info(f"training   {flags.epochs} epochs of {epoch_steps} steps of {flags.batch_size} images")
    log.info(f"ema        decay {flags.ema_decay}")
    log.info(f"run        {path}")


class Run:
    """The loop around the graph: steps, evaluations and checkpoints, from wherever the run directory left off."""

    def __init__(self, flags, dataset, graph, session, path, stop):
        self.flags, self.graph, self.session, self.path, self.stop = flags, graph, session, path, stop
        self.labels = dataset.test.labels
        self.epoch_steps = len(dataset.train.labels) // flags.batch_size
        self.total_steps = flags.epochs * self.epoch_steps
        state = {"step": 0, "seconds": 0.0, "training_seconds": 0.0, "interval_start": 0}
        if flags.resume:
            state = runs.restore_checkpoint(path, graph.saver, session)
            log.info(f"resumed at step {state['step']}")
        self.step = state["step"]
        self.training_seconds = state["training_seconds"]  # since the last evaluation
        self.interval_start = state["interval_start"]  # the step of the last evaluation
        self.started = time.monotonic() - state["seconds"]
        self.metrics = runs.Metrics(path, self.step)

    def train(self):
        """Trains to the last epoch; returns the rows of metrics.jsonl."""
        log.info(HEADER.format(ema=f"ema {self.flags.ema_decay}"))
        bar = tqdm.tqdm(
            total=self.total_steps * self.flags.batch_size,
            initial=self.step * self.flags.batch_size,
            unit=" images",
            unit_scale=True,
            disable=not sys.stderr.isatty(),
        )
        with bar, tqdm.contrib.logging.logging_redirect_tqdm([log]):
            self.session.run(self.graph.shuffle)
            while True:
                if self.evaluation_is_due():
                    self.metrics.append(self.evaluate())
                    log.info(line(self.metrics.rows[-1]))
                    self.save()
                if self.step >= self.total_steps:
                    return self.metrics.rows
                if self.stop.signal:
                    self.save()
                    raise UserError(
                        f"stopped by {signals.NAMES[self.stop.signal]} at step {self.step}, checkpoint saved; "
                        f"continue with: python train.py --resume --run_dir {self.path}",
                        128 + self.stop.signal,
                    )
                bar.update(self.run_steps() * self.flags.batch_size)

    def evaluation_is_due(self):
        interval = self.flags.eval_every * self.epoch_steps
        at_boundary = self.step > 0 and (self.step % interval == 0 or self.step >= self.total_steps)
        return at_boundary and not (self.metrics.rows and self.metrics.rows[-1]["step"] == self.step)

    def run_steps(self):
        """Drives the device for a few steps, within one epoch; returns how many."""
        if self.step % self.epoch_steps == 0:
            self.session.run(self.graph.shuffle)
        if self.metrics.rows and self.metrics.rows[-1]["step"] == self.step:
            self.session.run(self.graph.reset)
            self.training_seconds, self.interval_start = 0.0, self.step
        epoch_end = (self.step // self.epoch_steps + 1) * self.epoch_steps
        started, before = time.monotonic(), self.step
        until = min(self.step + STEPS_PER_RUN, epoch_end)
        self.step = int(self.session.run(self.graph.train, {self.graph.until: until}))
        self.training_seconds += time.monotonic() - started
        return self.step - before

    def evaluate(self):
        """One row of metrics.jsonl: training since the last evaluation, and every classifier on the whole test set."""
        losses, corrects = self.session.run(self.graph.sums)
        steps = self.step - self.interval_start
        images = steps * self.flags.batch_size
        predictions = self.session.run(self.graph.logits)
        accuracy = {label: float(np.mean(logits.argmax(1) == self.labels)) for label, logits in predictions.items()}
        return {
            "epoch": self.step // self.epoch_steps,
            "step": self.step,
            "train_loss": float(losses) / steps,
            "train_accuracy": int(corrects) / images,
            "raw_accuracy": accuracy["raw"],
            "ema_accuracy": accuracy[f"ema/{self.flags.ema_decay}/raw"],
            "images_per_second": images / self.training_seconds,
            "seconds": time.monotonic() - self.started,
            "classifiers": accuracy,
        }

    def save(self):
        state = {
            "step": self.step,
            "seconds": time.monotonic() - self.started,
            "training_seconds": self.training_seconds,
            "interval_start": self.interval_start,
        }
        runs.save_checkpoint(self.path, self.graph.saver, self.session, state)


HEADER = "epoch    step  train loss  train acc      raw  {ema:>10}    gain  images/s   seconds"


def line(row):
    """One evaluation as a line of the log, in the columns of HEADER."""
    percent = [100 * row[key] for key in ("train_accuracy", "raw_accuracy", "ema_accuracy")]
    return (
        f"{row['epoch']:5d} {row['step']:7d} {row['train_loss']:11.4f} {percent[0]:9.2f}% {percent[1]:7.2f}% "
        f"{percent[2]:10.2f}% {percent[2] - percent[1]:+7.2f} {row['images_per_second']:9.1f} {row['seconds']:9.1f}"
    )


if __name__ == "__main__":
    tf.disable_eager_execution()
    sys.exit(exit_status(functools.partial(main, FLAGS)))
