"""Train a CIFAR-10 classifier while an exponential moving average shadows its weights; compare both.

    python train.py                                           # CIFAR-10, the guide's settings, 20 epochs
    python train.py --dataset synthetic --width 0.25 --epochs 6 --ema_decay 0.99    # no download
    python train.py --resume --run_dir runs/20260101-120000    # go on where a run stopped
    python train.py --seeds 0 1 2                             # the same run for three seeds, then a report over them

After Rui Shu, "Exponential moving average for improved classification". `build` below is the guide; in four lines:

    logits = classifier(x, phase=True)
    with tf.control_dependencies([train_op]):               # strictly after the optimiser's step
        ema_op = ema.apply(var_class)
    ema_logits = classifier(x, phase=False, reuse=True, getter=ema_getter(ema))
"""

import sys

from analysis import series
from training import config
from training.errors import or_exit, start
from training.stderr import import_tensorflow

if __name__ == "__main__":
    FLAGS = start(config.parse)  # before TensorFlow's import, which takes seconds
    if "seeds" in FLAGS:
        sys.exit(or_exit(series.main, FLAGS))
    import_tensorflow(silent=FLAGS.strategy == "multiworker")  # whose sessions warn of every small thing

import functools
from typing import NamedTuple

import tensorflow.compat.v1 as tf

import data
import ema
from ema import ema_getter
from model import classifier, cross_entropy
from training import parallel, strategy
from training.device_loop import Loop, Step, build_loop, remember
from training.schedule import learning_rate
from training.settings import resolve
from training.signals import graceful

TEST_BATCH = 500
RECOMPUTE_BATCH = 500


class Tested(NamedTuple):
    """One test classifier."""

    logits: dict  # "test", and "validation" where images are held out, to logits [N, 10] float32
    recompute: tf.Operation | None  # to run before them, where it has batch statistics of its own


class Graph(NamedTuple):
    """What the trainer works with."""

    step: tf.Variable
    loop: Loop
    shuffle: tf.Operation  # draws the order of the epoch that `step` is in
    averages: ema.MovingAverages
    tested: dict  # training.labels.Label to Tested
    var_class: list  # the trainable variables


def build(settings, dataset):
    """The guide, in the default graph, for a training.settings.Settings and a data.Dataset; returns Graph."""
    flags = settings.flags
    tf.set_random_seed(flags.seed)

    # 1. The classifier. Its first use makes the variables, before anything else can shift their random seeds.
    dtype = tf.as_dtype(settings.precision.name)
    network = functools.partial(classifier, width=flags.width, dropout_rate=flags.dropout, dtype=dtype)
    strategy.make_variables(lambda: network(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False), flags.seed)
    var_class = tf.get_collection("trainable_variables", "class")
    batch_stats = [variable for variable in tf.global_variables("class") if not variable.trainable]

    # 2. A step trains it and then, strictly after the optimiser, moves the averages.
    step = tf.train.get_or_create_global_step()
    averaged = batch_stats if "averaged" in flags.ema_batch_stats else []
    averages = ema.MovingAverages(settings.decays, flags.ema_start, flags.ema_every, flags.ema_power or [], averaged)
    rate = learning_rate(flags.learning_rate, step, settings.total_steps, flags.lr_cooldown * settings.epoch_steps)
    optimizer = tf.train.AdamOptimizer(rate, beta1=flags.adam_beta1)
    seed_dtype = tf.as_dtype(settings.seed_dtype)
    batches = data.Batches(dataset.train, flags.batch_size, flags.seed, step, flags.augment, seed_dtype)

    def update(gradients):
        train_op = strategy.everywhere(optimizer.apply_gradients, gradients)
        with tf.control_dependencies([train_op]):  # the guide grouped the two, and they raced
            return averages.apply(var_class, step + 1)

    def train_step(now):  # of one device, or of one of several replicas, each of which takes a part of the batch
        x, labels, dropout_seed = batches.at(now, *strategy.this_replica())
        before = remember(batch_stats)  # a step that is not finite gives them back, and moves nothing else
        with tf.control_dependencies(before):
            logits = network(x, phase=True, reuse=True, seed=dropout_seed)
        loss = cross_entropy(logits, labels, flags.label_smoothing)
        gradients = optimizer.compute_gradients(loss, var_class)
        with tf.control_dependencies(tf.get_collection("update_ops")):
            finite = strategy.update_if_finite(loss, gradients, update, batch_stats, before)
        return count_step(step, loss, logits, labels, finite)

    strategy.make_slots(update, var_class)
    loop = build_loop(strategy.on_replicas(train_step), step, settings.xla)

    # 3. The test classifiers: the same function over the same variables, rebuilt with the getter.
    first_images = data.in_order(batches.images, flags.recompute_size, RECOMPUTE_BATCH)
    images = {name: data.resident(split.images, f"{name}_images") for name, split in dataset.evaluated.items()}
    tested = {}
    for label in settings.labels:
        getter = ema_getter(*averages.emas(label.decay, label.statistics))  # of no average for the raw weights
        recomputed = label.statistics == "recomputed"
        own = ema.recomputed_getter(getter, label, batch_stats) if recomputed else getter
        rebuilt = functools.partial(network, reuse=True, getter=own)
        test = functools.partial(rebuilt, phase=False)
        logits = {
            name: strategy.in_parts(data.map_images, test, variable, TEST_BATCH) for name, variable in images.items()
        }
        shadowed = (var_class if label.weights == "ema" else []) + (averaged if label.statistics == "averaged" else [])
        ema.check_replaced(getter, shadowed)
        tested[label] = Tested(logits, recomputation(rebuilt, first_images, flags) if recomputed else None)

    return Graph(step, loop, batches.shuffle, averages, tested, var_class)


def recomputation(network, first_images, flags):
    """The operation that recomputes the batch statistics of a test classifier over the first training images."""
    rate = flags.dropout if flags.recompute_dropout else 0.0
    return ema.recompute(functools.partial(network, dropout_rate=rate), *first_images, flags.seed)


def count_step(step, loss, logits, labels, finite):
    """Counts a training step once it is done; returns its device_loop.Step."""
    with tf.control_dependencies([finite]):
        counted = step.assign_add(1)
    with tf.control_dependencies([counted]):
        correct = tf.math.count_nonzero(tf.equal(tf.argmax(logits, 1), labels))
        return Step(tf.identity(loss), correct, tf.identity(finite))


def main(flags):
    """Trains, evaluates, and writes the run directory.

    Raises:
      UserError: what the user has to mend, or a signal that ended the run early.
    """
    place = parallel.choose(flags)  # refuses before the data is loaded, and perhaps downloaded
    dataset = data.load_for(flags)
    settings = resolve(flags, place.device, len(dataset.train.labels), place.directory.begun(), place.replicas)
    with tf.Graph().as_default(), place.scope():
        graph = build(settings, dataset)
        feeds = data.resident_feeds() | strategy.initial_feeds()
        place.directory.enter()
        with place.session() as session, graceful() as stop:
            place.trainer(settings, dataset, graph, feeds, place.directory, session, stop).train()


if __name__ == "__main__":
    tf.disable_eager_execution()
    or_exit(main, FLAGS)
