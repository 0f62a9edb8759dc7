"""Train a CIFAR-10 classifier while an exponential moving average shadows its weights; compare both.

    python train.py                                           # CIFAR-10, the guide's settings, 20 epochs
    python train.py --dataset synthetic --width 0.25 --epochs 6 --ema_decay 0.99    # no download
    python train.py --resume --run_dir runs/20260101-120000    # go on where a run stopped

After Rui Shu, "Exponential moving average for improved classification". `build` below is the guide, without its race
between step and average; in four lines:

    logits = classifier(x, phase=True)
    with tf.control_dependencies([train_op]):               # strictly after the optimiser's step
        ema_op = ema.apply(var_class)
    ema_logits = classifier(x, phase=False, reuse=True, getter=ema_getter(ema))
"""

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(realpath(__file__)))  # which PYTHONSAFEPATH keeps out
    from training import cli, flags

    cli.run_cli("train", flags.parse)  # answers --help at once; then imports this file as a module and calls its `main`

from functools import partial
from typing import NamedTuple

import tensorflow.compat.v1 as tf

import data
from analysis.plots import draw_curves
from ema import MovingAverages, check_replaced, ema_getter, recompute
from model import classifier, count_correct, cross_entropy
from training import strategies
from training.cli import catch_signals
from training.loop import Loop, build_loop
from training.run_directory import RunDirectory
from training.settings import learning_rate, resolve

tf.disable_eager_execution()  # graph mode, as in TF 1.x


class TestClassifier(NamedTuple):
    """One test classifier."""

    logits: dict  # "test", and "validation" where images are held out, to logits [N, 10] float32
    recompute: tf.Operation | None  # recomputes its batch statistics, before `logits`; None where it reads others


class Graph(NamedTuple):
    """What `build` makes and the trainer runs."""

    step: tf.Variable  # int64, the number of steps done; the loop counts them
    loop: Loop
    shuffle: tf.Operation  # draws the order of the images; to be run as an epoch begins
    averages: MovingAverages
    test_classifiers: dict  # training.labels.Label to TestClassifier
    var_class: list  # the trainable variables
    feeds: dict  # placeholder to array: the data, for the initializers of the variables that hold them on the device


def build(settings, dataset):
    """The guide, in the default graph, for a training.settings.Settings and a data.Dataset; returns Graph."""
    tf.set_random_seed(settings.seed)

    # 1. The classifier. Its first use makes the variables.
    network = partial(classifier, width=settings.width, dropout_rate=settings.dropout, dtype=settings.precision)
    network(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False)
    var_class = tf.get_collection("trainable_variables", "class")
    batch_stats = [variable for variable in tf.global_variables("class") if not variable.trainable]

    # 2. A step trains it and then, strictly after the optimiser, moves the averages.
    step = tf.train.get_or_create_global_step()
    batches = data.Batches(dataset.train, settings.batch_size, settings.seed, step, settings.augment)
    optimizer = tf.train.AdamOptimizer(learning_rate(settings, step), beta1=settings.adam_beta1)
    averages = MovingAverages(settings.ema_decay, settings.ema_start, settings.ema_batch_stats, settings.ema_power)

    def gradients_at(now):  # the number of the step
        x, labels, dropout_seed = batches.local_batch(now)
        statistics = []  # batch norm puts its new ones here, as (value, variable), and `update` assigns them
        logits = network(x, phase=True, reuse=True, internal_update=statistics, seed=dropout_seed)
        loss = cross_entropy(logits, labels)
        return loss, count_correct(logits, labels), optimizer.compute_gradients(loss, var_class), statistics

    def update(gradients, statistics):
        train_op = optimizer.apply_gradients(gradients)
        stats_ops = [variable.assign(value) for value, variable in statistics]
        with tf.control_dependencies([train_op, *stats_ops]):  # the guide grouped them with the average, and they raced
            return averages.apply(var_class, batch_stats)

    loop = build_loop(gradients_at, update, step, settings.xla)

    # 3. The test classifiers: the same function over the same variables, rebuilt with the getter.
    images = {name: data.put_on_device(split.images, f"{name}_images") for name, split in dataset.evaluated.items()}
    test_classifiers = {}
    for label in settings.labels:
        getter = ema_getter(
            *averages.averages_for(label, batch_stats)
        )  # no averages for the raw weights: gives them themselves
        rebuilt = partial(network, reuse=True, getter=getter)
        test = partial(rebuilt, phase=False)
        logits = {name: data.map_images(test, variable, data.EVAL_BATCH_SIZE) for name, variable in images.items()}
        check_replaced(getter, label.replaced(var_class, batch_stats))
        stats_op = (
            recompute(rebuilt, *data.first_images(batches.images, data.EVAL_BATCH_SIZE)) if label.recomputed else None
        )
        test_classifiers[label] = TestClassifier(logits, stats_op)
    return Graph(step, loop, batches.shuffle, averages, test_classifiers, var_class, data.device_feeds())


def main(flags):
    """Trains, evaluates, and writes the run directory; a UserError says what the user has to mend."""
    strategy = strategies.choose(
        flags
    )  # this and the next line refuse before the data is loaded, and perhaps downloaded
    directory = RunDirectory(flags, strategy.chief)
    dataset = data.load_for_training(flags)
    network = partial(classifier, width=flags.width, dropout_rate=flags.dropout)  # timed for --precision auto
    settings = resolve(flags, strategy, directory.saved_run(), len(dataset.train.labels), network)
    with tf.Graph().as_default(), strategy.scope():
        graph = build(settings, dataset)
        directory.enter()
        with strategy.session() as session, catch_signals() as stop:
            rows = strategy.trainer(settings, dataset, graph, directory, session, stop).train()
    if strategy.chief:
        draw_curves(directory.path, rows)
