"""Train an image classifier while an exponential moving average shadows its weights; compare both.

    python train.py                                                                 # CIFAR-10, the guide, 20 epochs
    python train.py --dataset synthetic --width 0.25 --epochs 6 --ema_decay 0.99    # without a download
    python train.py --resume --run_dir runs/20260101-120000                         # continue a stopped run

After Rui Shu, "Exponential moving average for improved classification". `build` is the guide, without its race between
the step and the average. In four lines:

    logits = classifier(x, phase=True)
    with tf.control_dependencies([train_op]):               # strictly after the optimizer's step
        ema_op = ema.apply(var_class)
    ema_logits = classifier(x, phase=False, reuse=True, getter=ema_getter(ema))
"""

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(realpath(__file__)))  # PYTHONSAFEPATH leaves it out
    from training import cli, flags

    cli.run_cli("train", flags.parse)  # imports this file as a module and calls `main`

from functools import partial
from typing import NamedTuple

import tensorflow.compat.v1 as tf

import data
from analysis.plots import draw_curves
from ema import MovingAverages, check_replaced, ema_getter, recompute
from model import classifier, count_correct, cross_entropy
from training import strategies
from training.cli import catch_signals
from training.loop import Loop, StepResult, build_loop
from training.settings import fingerprint, learning_rate, resolve
from training.trainer import Trainer

tf.disable_eager_execution()  # graph mode, as in TF 1.x


class TestClassifier(NamedTuple):
    logits: dict  # "test", and "validation" if there are validation images, to logits [N, K] float32
    recompute: tf.Operation | None  # recomputes its batch statistics; None if it does not use recomputed ones


class Graph(NamedTuple):
    """What `build` makes and the trainer runs."""

    loop: Loop
    shuffle: tf.Operation  # draws the order of the images; run it at the start of each epoch
    averages: MovingAverages
    test_classifiers: dict  # training.labels.Label to TestClassifier
    var_class: list  # the trainable variables
    feeds: dict  # placeholder to array: initial values of the variables that hold the data


def build(settings, dataset):
    """Builds the guide in the default graph, for a training.settings.Settings and a data.Dataset; returns Graph."""
    tf.set_random_seed(settings.seed)

    # 1. The classifier. The first call creates the variables.
    keywords = {"width": settings.width, "dropout_rate": settings.dropout, "dtype": settings.precision}
    network = partial(classifier, num_classes=len(dataset.class_names), **keywords)
    network(tf.zeros([1, *dataset.image_shape]), phase=False)
    var_class = tf.get_collection("trainable_variables", "class")
    batch_stats = [variable for variable in tf.global_variables("class") if not variable.trainable]

    # 2. A step trains the classifier and then, strictly after the optimizer, updates the averages.
    global_step = tf.train.get_or_create_global_step()
    batches = data.Batches(dataset.train, settings.batch_size, settings.seed, global_step, settings.augment)
    optimizer = tf.train.AdamOptimizer(learning_rate(settings, global_step), beta1=settings.adam_beta1)
    averages = MovingAverages(settings.ema_decay, settings.ema_start, settings.ema_batch_stats, settings.ema_power)

    def compute(step):
        x, labels, dropout_seed = batches.local_batch(step)
        statistics = []  # batch norm appends (new value, variable), which `update` assigns
        logits = network(x, phase=True, reuse=True, internal_update=statistics, seed=dropout_seed)
        loss = cross_entropy(logits, labels)
        return StepResult(loss, count_correct(logits, labels), optimizer.compute_gradients(loss, var_class), statistics)

    def update(gradients, statistics):
        train_op = optimizer.apply_gradients(gradients)
        stats_ops = [variable.assign(value) for value, variable in statistics]
        with tf.control_dependencies([train_op, *stats_ops]):  # in the guide, the step and the average raced
            return averages.apply(var_class, batch_stats)

    loop = build_loop(compute, update, global_step, settings.xla)

    # 3. The test classifiers: the same function over the same variables, rebuilt with the getter.
    images = {name: data.put_on_device(split.images, f"{name}_images") for name, split in dataset.evaluated.items()}
    test_classifiers = {}
    for label in settings.labels:
        getter = ema_getter(*averages.averages_for(label, batch_stats))  # for "raw", none: it returns the variables
        rebuilt = partial(network, reuse=True, getter=getter)
        test = partial(rebuilt, phase=False)
        logits = {name: data.map_images(test, array, data.EVAL_BATCH_SIZE) for name, array in images.items()}
        check_replaced(getter, label.replaced(var_class, batch_stats), logits["test"])
        first = data.first_images(batches.images, data.EVAL_BATCH_SIZE)
        test_classifiers[label] = TestClassifier(logits, recompute(rebuilt, *first) if label.recomputed else None)
    return Graph(loop, batches.shuffle, averages, test_classifiers, var_class, data.device_feeds())


def main(flags):
    """Trains, evaluates and writes the run directory."""
    strategy = strategies.choose(flags)
    dataset = data.load_for_training(flags)
    settings = resolve(flags, strategy, dataset, classifier)
    with tf.Graph().as_default(), strategy.scope():
        graph = build(settings, dataset)
        with strategy.session(fingerprint(settings, dataset)) as session, catch_signals() as stop:
            Trainer(settings, dataset, graph, session, strategy.share_stop(stop)).train(draw_curves)
