"""Train a CIFAR-10 classifier while an exponential moving average shadows its weights; compare both.

    python train.py                                           # CIFAR-10, the guide's settings, 20 epochs
    python train.py --dataset synthetic --width 0.25 --epochs 6 --ema_decay 0.99    # no download, two minutes
    python train.py --resume --run_dir runs/20260101-120000    # go on where a run stopped
    python train.py --seeds 0 1 2                             # the same run for three seeds, then a report over them

After Rui Shu, "Exponential moving average for improved classification". The guide itself is `train_step` and
`build` below: train the raw network, apply the EMA strictly after the optimiser's step, rebuild the classifier
from the shadow variables through a custom getter.
"""

import sys

import flags as command_line
from errors import UserError, end_quietly, or_exit
from quiet import captured_stderr

if __name__ == "__main__":
    sys.excepthook = end_quietly
    FLAGS = or_exit(command_line.parse)  # before TensorFlow's import, which takes seconds
    if "seeds" in FLAGS:
        import seeds

        sys.exit(or_exit(seeds.main, FLAGS))

import functools
import itertools
import math
import platform
from typing import NamedTuple

with captured_stderr():
    import tensorflow as tf2
import numpy as np
import tensorflow.compat.v1 as tf

import data
import devices
import ema
import loop
import runs
import signals
from ema import ema_getter
from model import classifier
from runs import log

STEPS_PER_RUN = {"cpu": 10, "gpu": 100}  # one session.run drives this many; a signal and the progress bar wait for it
TEST_BATCH = 500
RECOMPUTE_BATCH = 500


# ---------------------------------------------------------------------------------------------------------------
# The graph


def cross_entropy(logits, labels, smoothing=0.0):
    """Mean cross-entropy in nats, against targets of 1 - smoothing on the label and smoothing / 10 on every class.

    Args:
      logits, labels: [N, 10] float32 and [N] int64.
      smoothing: in [0, 1) (Szegedy et al. 2016).
    """
    if not smoothing:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    classes = logits.shape[-1]
    targets = (1 - smoothing) * tf.one_hot(labels, classes) + smoothing / int(classes)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=targets, logits=logits))


def learning_rate(peak, step, total_steps, cooldown_steps):
    """The learning rate of the step after `step` steps: `peak`, then linear to 0 over the last `cooldown_steps`.

    Args:
      peak: float.
      step: int64 variable, the number of steps done.
      total_steps, cooldown_steps: ints; the last step has peak / cooldown_steps.

    Returns:
      `peak` itself without a cooldown, else a function that Adam calls in every step for a float32 scalar.
    """
    if not cooldown_steps:
        return peak

    def now():
        left = tf.cast(total_steps - step.read_value(), tf.float32)
        return peak * tf.minimum(left / cooldown_steps, 1.0)

    return now


def train_step(network, x, labels, optimizer, averages, batch_stats, step, label_smoothing=0.0):
    """One step, in the guide's order: batch statistics, then the optimiser, then the moving average.

    A step whose loss or gradients are not finite changes nothing but the count of steps.

    Args:
      network: `classifier` with this run's width, dropout rate, dropout seed and precision.
      x, labels: a batch, [N, 32, 32, 3] float32 and [N] int64.
      averages: ema.MovingAverages.
      batch_stats: the moving means and variances of batch norm.
      step: int64 variable, counts the steps.

    Returns:
      (loss, correct, finite): scalars float32, int64 and bool, available when everything above is done.
    """
    stats_before = [variable.read_value() for variable in batch_stats]
    with tf.control_dependencies(stats_before):
        train_logits = network(x, phase=True, reuse=True, internal_update=False)
    loss = cross_entropy(train_logits, labels, label_smoothing)
    var_class = tf.get_collection("trainable_variables", "class")
    gradients = optimizer.compute_gradients(loss, var_class)
    with tf.control_dependencies(tf.get_collection("update_ops")):
        finite = tf.reduce_all(
            [tf.reduce_all(tf.math.is_finite(value)) for value in (loss, *(g for g, _ in gradients))]
        )

    def update():
        train_op = optimizer.apply_gradients(gradients)
        with tf.control_dependencies([train_op]):  # the guide grouped the two, and they raced
            return averages.apply(var_class, step + 1)

    def skip():
        return ema.done(*(variable.assign(before) for variable, before in zip(batch_stats, stats_before, strict=True)))

    with tf.control_dependencies([tf.cond(finite, update, skip)]):
        counted = step.assign_add(1)
    with tf.control_dependencies([counted]):
        correct = tf.math.count_nonzero(tf.equal(tf.argmax(train_logits, 1), labels))
        return tf.identity(loss), correct, tf.identity(finite)


def test_classifiers(network, averages, policies, batch_stats):
    """The classifiers to test, all over one set of variables; their names are the labels of every table.

    Args:
      network: as in `train_step`.
      averages: ema.MovingAverages, applied already.
      policies: of `ema.BATCH_STATS`.
      batch_stats: the moving means and variances of batch norm.

    Returns:
      Label to custom getter: "raw" (None: the variables themselves), "raw/recomputed" where that policy is asked
      for, "ema/<decay>/<policy>".
    """
    var_class = tf.get_collection("trainable_variables", "class")
    getters = {"raw": None}
    if "recomputed" in policies:
        getters["raw/recomputed"] = ema.recomputed_getter(None, "raw")
    for average, policy in itertools.product(averages.decays, policies):
        label = f"ema/{average.name}/{policy}"
        shadows = ema_getter(average.weights)
        if policy == "averaged":
            shadows = ema_getter(average.weights, average.batch_stats)
        getters[label] = ema.recomputed_getter(shadows, label) if policy == "recomputed" else shadows
        network(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False, reuse=True, getter=getters[label])
        ema.check_replaced(shadows, var_class + batch_stats if policy == "averaged" else var_class)
    return getters


class Graph(NamedTuple):
    """What the training loop and evaluate.py need of the graph."""

    initialize: tf.Operation
    feeds: dict  # for `initialize`: the images and labels
    step: tf.Variable
    train: tuple  # runs steps; yields the new step, and how many were skipped in a row
    until: tf.Tensor  # placeholder: `train` stops at this step
    shuffle: tf.Operation  # draws the order of the epoch that `step` is in
    sums: tuple  # loss, correct answers and skipped steps, summed over the steps since `reset`
    reset: tf.Operation
    averages: ema.MovingAverages
    recompute: dict  # label to the operation to run before its logits, where there is one
    logits: dict  # label to test logits [N, 10] float32
    validation: dict  # the same of the images held out; empty where there are none
    saver: tf.train.Saver
    var_class: list  # the trainable variables
    parameters: int


def build(flags, dataset, precision, xla=False):
    """Builds the whole graph in the default graph: data on the device, the training loop, the test classifiers.

    Args:
      flags: the command line.
      dataset: data.Dataset.
      precision: of the convolutions, "float32" or "bfloat16".
      xla: compile the training loop.
    """
    tf.set_random_seed(flags.seed)
    network = functools.partial(classifier, width=flags.width, dropout_rate=flags.dropout, dtype=tf.as_dtype(precision))
    # The first use creates the variables. It comes first of all, so that nothing else shifts their random seeds.
    network(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False)
    var_class = tf.get_collection("trainable_variables", "class")
    batch_stats = [variable for variable in tf.global_variables("class") if not variable.trainable]

    step = tf.train.get_or_create_global_step()
    averages = ema.MovingAverages(
        decays(flags, len(dataset.train.labels)),
        flags.ema_start,
        flags.ema_every,
        flags.ema_power or [],
        batch_stats if "averaged" in flags.ema_batch_stats else [],
    )
    epoch_steps = len(dataset.train.labels) // flags.batch_size
    rate = learning_rate(flags.learning_rate, step, flags.epochs * epoch_steps, flags.lr_cooldown * epoch_steps)
    optimizer = tf.train.AdamOptimizer(rate, beta1=flags.adam_beta1)
    images, batch, shuffle, train_feeds = training_batches(flags, dataset.train, step)

    def one_step(now):
        x, labels, seed = batch(now)
        return train_step(
            functools.partial(network, seed=seed),
            x,
            labels,
            optimizer,
            averages,
            batch_stats,
            step,
            flags.label_smoothing,
        )

    until, train, sums, reset = training_loop(one_step, step, xla)
    getters = test_classifiers(network, averages, flags.ema_batch_stats, batch_stats)
    recompute = {
        label: recomputation(flags, network, getter, images)
        for label, getter in getters.items()
        if label.endswith("/recomputed")
    }
    logits, test_feed = evaluation(network, getters, dataset.test.images, "test_images")
    validation, validation_feed = {}, {}
    if dataset.validation:
        validation, validation_feed = evaluation(network, getters, dataset.validation.images, "validation_images")
    return Graph(
        initialize=tf.group(tf.global_variables_initializer(), tf.local_variables_initializer()),
        feeds=train_feeds | test_feed | validation_feed,
        step=step,
        train=train,
        until=until,
        shuffle=shuffle,
        sums=sums,
        reset=reset,
        averages=averages,
        recompute=recompute,
        logits=logits,
        validation=validation,
        saver=tf.train.Saver(tf.global_variables(), max_to_keep=None),
        var_class=var_class,
        parameters=sum(int(np.prod(variable.shape)) for variable in var_class),
    )


def evaluation(network, getters, images, name):
    """Every classifier on a whole set of images, resident on the device as `name`.

    Returns:
      (label to logits [N, 10] float32, feeds for the initializer).
    """
    resident, feed = data.resident(images, name)
    logits = {
        label: data.map_images(
            functools.partial(network, phase=False, reuse=True, getter=getter),
            resident,
            len(images),
            min(TEST_BATCH, len(images)),
        )
        for label, getter in getters.items()
    }
    return logits, feed


def decays(flags, train_size):
    """The decays asked for: those of --ema_decay, or derived from --ema_horizon, so that they label classifiers."""
    if not flags.ema_horizon:
        return flags.ema_decay
    epoch_steps = train_size / flags.batch_size
    for horizon in flags.ema_horizon:
        if horizon * epoch_steps < 1:
            raise UserError(
                f"--ema_horizon {horizon:g} is less than one step: ask for {1 / epoch_steps:.2g} or more", 2
            )
    found = [command_line.Decay(f"{ema.decay_of_horizon(h * epoch_steps):.10g}") for h in flags.ema_horizon]
    if max(found) >= command_line.MAX_DECAY or len(set(found)) < len(found):
        raise UserError(
            "--ema_horizon: a decay of 1, or the same decay twice, is no average: ask for other horizons", 2
        )
    return found


def training_batches(flags, split, step):
    """The training batches, gathered on the device.

    Returns:
      images: the resident training images, uint8 variable.
      batch: function from the step to (images float32, labels, dropout seed).
      shuffle: operation that draws the order of the epoch that `step` is in.
      feeds: for the initializers of what is resident.
    """
    size = len(split.labels)
    epoch_steps = size // flags.batch_size
    images, image_feed = data.resident(split.images, "train_images")
    labels, label_feed = data.resident(split.labels, "train_labels")
    order, order_feed = data.resident(np.arange(size), "train_order")
    shuffle = order.assign(data.epoch_order(flags.seed, step // epoch_steps, size)).op

    def batch(now):
        indices = tf.slice(order, [now % epoch_steps * flags.batch_size], [flags.batch_size])
        dropout_seed, augment_seed = tf.unstack(
            tf2.random.split(tf.stack([tf.constant(flags.seed, tf.int64), now]), 2, "philox")
        )
        x = tf.gather(images, indices)
        if flags.augment:
            x = data.augment(x, augment_seed)
        return data.to_float(x), tf.gather(labels, indices), dropout_seed

    return images, batch, shuffle, image_feed | label_feed | order_feed


def training_loop(one_step, step, xla):
    """Many steps in one session.run: a loop on the device, from the current step up to a placeholder.

    Args:
      one_step: function from the step (int64 scalar) to what `train_step` returns.
      step: int64 variable, counts the steps.
      xla: compile the whole loop into one program. A step on a GPU is so short that launching its hundreds of kernels
        one by one would dominate; on a CPU the plain kernels are many times faster than XLA's.

    Returns:
      (until, train, sums, reset), as in `Graph`.
    """

    def counter(name, dtype=tf.int64):
        return tf.get_variable(name, [], dtype, initializer=tf.zeros_initializer(), trainable=False)

    in_a_row = counter("skipped_in_a_row")
    sums = counter("loss_sum", tf.float32), counter("correct_sum"), counter("skipped_sum")

    def body(now, in_a_row, losses, corrects, skipped):
        loss, correct, finite = one_step(now)
        counts = tf.cast(finite, tf.int64)
        return (
            now + 1,
            (in_a_row + 1) * (1 - counts),
            losses + tf.where(finite, loss, 0.0),
            corrects + correct * counts,
            skipped + 1 - counts,
        )

    def run(until):
        # One iteration at a time: the reads of the next must see the writes of this one.
        now, *totals = tf.while_loop(
            lambda now, in_a_row, *_: (now < until) & (in_a_row < loop.MAX_SKIPPED),
            body,
            [variable.read_value() for variable in (step, in_a_row, *sums)],
            parallel_iterations=1,
        )
        updates = [variable.assign(total) for variable, total in zip((in_a_row, *sums), totals, strict=True)]
        with tf.control_dependencies(updates):
            return tf.identity(now), tf.identity(totals[0])

    until = tf.placeholder(tf.int64, [], name="until")
    train = tf2.function(run, jit_compile=True, autograph=False)(until) if xla else run(until)
    reset = tf.group([variable.assign(tf.zeros_like(variable)) for variable in sums])
    return until, train, sums, reset


def recomputation(flags, network, getter, images):
    """The operation that recomputes the batch statistics of one classifier over the first training images."""
    size = min(flags.recompute_size, images.shape[0])
    batches = math.ceil(size / RECOMPUTE_BATCH)
    batch_size = size // batches

    def one_pass(index, momentum):
        batch = images[index * batch_size : (index + 1) * batch_size]
        return network(
            data.to_float(tf.ensure_shape(batch, [batch_size, *data.IMAGE_SHAPE])),
            phase=True,
            reuse=True,
            internal_update=True,
            getter=getter,
            dropout_rate=flags.dropout if flags.recompute_dropout else 0.0,
            seed=tf.stack([tf.constant(flags.seed, tf.int64), index]),
            momentum=momentum,
        )

    return ema.recompute(one_pass, batches)


# ---------------------------------------------------------------------------------------------------------------
# The run


def main(flags):
    """Trains, evaluates, and writes the run directory.

    Raises:
      UserError: what the user has to mend, or a signal that ended the run early.
    """
    device = devices.choose(flags.device)
    precision = devices.choose_precision(flags.precision, device)
    if flags.resume:
        precision = command_line.load_precision(flags.run_dir)
    flags.steps_per_run = flags.steps_per_run or STEPS_PER_RUN[device.kind]
    runs.check_directory(flags.run_dir, flags.resume)  # before the data is loaded, and perhaps downloaded
    dataset = training_data(flags)
    if flags.batch_size > len(dataset.train.labels):
        raise UserError(
            f"--batch_size {flags.batch_size} is more than the {len(dataset.train.labels)} training images", 2
        )
    epoch_steps = len(dataset.train.labels) // flags.batch_size
    if flags.resume and runs.last_step(flags.run_dir) > flags.epochs * epoch_steps:
        done = runs.last_step(flags.run_dir) / epoch_steps
        raise UserError(f"--epochs {flags.epochs}: {flags.run_dir} is trained for {done:.4g} already: ask for more", 2)
    if flags.lr_cooldown > flags.epochs:
        raise UserError(f"--lr_cooldown {flags.lr_cooldown} is longer than --epochs {flags.epochs}: cool down less", 2)
    if flags.resume:
        check_cooldown(flags, runs.last_step(flags.run_dir) / epoch_steps)
    with tf.Graph().as_default():
        graph = build(flags, dataset, precision, devices.choose_xla(flags.xla, device))
        path = runs.open_directory(flags.run_dir, config(flags, device, precision), flags.resume)
        log.info(f"device     {device.description}")
        log.info(f"precision  {precision} convolutions, float32 variables")
        log.info(f"data       {dataset.source}")
        log.info(
            f"network    {graph.parameters:,} trainable parameters, width {flags.width:g}, dropout {flags.dropout:g}"
        )
        with devices.session() as session, signals.graceful() as stop:
            with captured_stderr():
                session.run(graph.initialize, graph.feeds)
            loop.Run(flags, dataset, graph, session, path, stop).train(
                {"device": device.description, "precision": precision}
            )


def training_data(flags):
    """The data of a run: loaded, the validation images held out, the labels of what is left made noisy."""
    dataset = data.load(flags.dataset, flags.data_dir, flags.train_size, flags.test_size)
    dataset = data.hold_out(dataset, flags.validation_size)
    if not flags.label_noise:
        return dataset
    noisy = data.replace_labels(dataset.train.labels, flags.label_noise, flags.seed)
    source = f"{dataset.source}; {flags.label_noise:.0%} of the training labels are wrong"
    return dataset._replace(train=dataset.train._replace(labels=noisy), source=source)


def check_cooldown(flags, epochs_done):
    """Checks that the steps done had the learning rate that these flags give them.

    Raises:
      UserError: the run is inside a cooldown, the one it was trained with or the one asked for now.
    """
    saved = command_line.load_flags(flags.run_dir)
    if (saved.epochs, saved.lr_cooldown) == (flags.epochs, flags.lr_cooldown):
        return
    for cooled in (saved, flags):
        if cooled.lr_cooldown and epochs_done > cooled.epochs - cooled.lr_cooldown:
            raise UserError(
                f"{flags.run_dir} is trained for {epochs_done:.4g} epochs, but --epochs {cooled.epochs} --lr_cooldown "
                f"{cooled.lr_cooldown} lowers the learning rate from epoch {cooled.epochs - cooled.lr_cooldown} on: "
                f"resume it with --epochs {saved.epochs} --lr_cooldown {saved.lr_cooldown}, or a copy made before",
                2,
            )


def config(flags, device, precision):
    return {
        # Decays as typed: 0.990 names other variables than 0.99.
        "flags": vars(flags) | {"ema_decay": flags.ema_decay and list(map(str, flags.ema_decay))},
        "precision": precision,
        "device": device.description,
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__},
        "git_commit": runs.git_commit(),
    }


if __name__ == "__main__":
    tf.disable_eager_execution()
    or_exit(main, FLAGS)
