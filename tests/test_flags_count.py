"""Every flag that shapes numbers shapes them, and as it says: against the guide written out again, with own batches."""

import functools

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from support.commands import TINY_RUN
from support.tiny import SteppedRun, dataset

import data
import ema
import model
from training import config
from training.labels import RAW_RECOMPUTED, Label

GUIDE = {
    "seed": 3,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "adam_beta1": 0.5,
    "dropout": 0.5,
    "label_smoothing": 0.0,
    "ema_decay": "0.998",
    "width": 0.05,
}
OTHER = {
    "seed": 4,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "adam_beta1": 0.9,
    "dropout": 0.25,
    "label_smoothing": 0.1,
    "ema_decay": "0.9",
    "width": 0.04,
}


def typed(values):
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def guide(values, augment, steps):
    """The guide once more, fed one batch a step; what it ends at: weights, shadows, EMA test logits.

    The batches are gathered here, by NumPy, from the order of each epoch.
    """
    seed, size = values["seed"], values["batch_size"]
    images, labels = dataset().train
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(seed)
        x, y = tf.placeholder(tf.uint8, [size, 32, 32, 3]), tf.placeholder(tf.int64, [size])
        step = tf.placeholder(tf.int64, [])
        seeds = tf2.random.split(tf.stack([tf.constant(seed, tf.int64), step]), 2, "philox")
        dropout_seed, augment_seed = tf.unstack(tf.cast(seeds, tf.int32))
        pixels = data.to_float(data.augment(x, augment_seed) if augment else x)
        network = functools.partial(model.classifier, width=values["width"], dropout_rate=values["dropout"])
        network(tf.zeros([1, 32, 32, 3]), phase=False)
        logits = network(pixels, phase=True, reuse=True, seed=dropout_seed)
        share = values["label_smoothing"]
        if share:
            targets = (1 - share) * tf.one_hot(y, 10) + share / 10
            losses = tf.nn.softmax_cross_entropy_with_logits_v2(labels=targets, logits=logits)
        else:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        var_class = tf.get_collection("trainable_variables", "class")
        optimizer = tf.train.AdamOptimizer(values["learning_rate"], values["adam_beta1"])
        with tf.control_dependencies(tf.get_collection("update_ops")):
            train_op = optimizer.minimize(tf.reduce_mean(losses), var_list=var_class)
        average = tf.train.ExponentialMovingAverage(float(values["ema_decay"]))
        with tf.control_dependencies([train_op]):
            ema_op = average.apply(var_class)
        test = data.to_float(tf.constant(dataset().test.images))
        ema_logits = network(test, phase=False, reuse=True, getter=ema.ema_getter(average))
        epoch = tf.placeholder(tf.int64, [])
        order_of = data.epoch_order(seed, epoch, len(labels))
        session.run(tf.global_variables_initializer())
        per_epoch = len(labels) // size
        for now in range(steps):
            order = session.run(order_of, {epoch: now // per_epoch})
            chosen = order[now % per_epoch * size : (now % per_epoch + 1) * size]
            session.run(ema_op, {x: images[chosen], y: labels[chosen], step: now})
        variables = session.run({v.op.name: v for v in var_class})
        return variables, session.run({v.op.name: average.average(v) for v in var_class}), session.run(ema_logits)


@pytest.mark.parametrize(
    ("values", "augment"), [(GUIDE, False), (OTHER, False), (GUIDE, True)], ids=["guide", "other", "augment"]
)
def test_training_is_the_guides_with_these_numbers_over_two_epochs(values, augment):
    steps = 2 * 64 // values["batch_size"] - 1
    weights, shadows, logits = guide(values, augment, steps)
    ours = SteppedRun(*typed(values), *(["--augment"] if augment else []), steps=0)
    epoch_steps = ours.settings.epoch_steps
    for until in (epoch_steps, steps):
        ours.session.run(ours.graph.shuffle)
        ours.session.run(ours.graph.loop.train, {ours.graph.loop.until: until})
    got, averaged = ours.read(ours.graph.var_class), ours.shadows(ours.primary())
    for name, expected in weights.items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
        np.testing.assert_array_equal(averaged[name], shadows[name], err_msg=name)
    np.testing.assert_array_equal(ours.logits(Label("ema", values["ema_decay"])), logits)


def test_the_guides_numbers_are_the_defaults():
    flags = config.parse([])
    for name in set(GUIDE) - {"seed", "batch_size", "width"}:
        default = getattr(flags, name)
        assert str(default[0] if isinstance(default, list) else default) == str(GUIDE[name])


# What must change, beyond what the test above compares: flags to the endings of variables.
CHANGES = {
    "--lr_cooldown 1 --epochs 1": "/weights",
    "--precision bfloat16": "/weights",
    "--ema_start warmup": "/ExponentialMovingAverage",
    "--ema_start unbiased": "/ExponentialMovingAverage",
    "--ema_every 2": "/ExponentialMovingAverage",
    "--ema_horizon 2": "/ExponentialMovingAverage",
}


@pytest.fixture(scope="module")
def plain():
    return SteppedRun(steps=3)


@pytest.mark.parametrize("flags", CHANGES)
def test_a_flag_changes_what_it_is_about_and_an_average_never_the_weights(plain, flags):
    expected, got = plain.everything(), SteppedRun(*flags.split(), steps=3).everything()
    changed = {name for name in expected if (expected[name] != got[name]).any()}
    assert any(name.endswith(CHANGES[flags]) for name in changed)
    assert flags.startswith("--ema") == (not any(name.endswith("/weights") for name in changed))


@pytest.mark.parametrize("flags", [["--recompute_size", "32"], ["--recompute_dropout"]], ids=" ".join)
def test_how_statistics_are_recomputed_changes_those_classifiers_alone(flags):
    policies = ["--ema_batch_stats", "raw", "recomputed"]
    one, other = SteppedRun(*policies, steps=2), SteppedRun(*policies, *flags, steps=2)
    for label in one.settings.labels:
        same = np.array_equal(one.logits(label), other.logits(label))
        assert same == (label.statistics != "recomputed"), label
    assert RAW_RECOMPUTED in one.settings.labels


@pytest.mark.parametrize(
    ("flags", "train", "test", "validation"),
    [
        ([], 256, 64, None),
        (["--train_size", "100"], 100, 64, None),
        (["--test_size", "10"], 256, 10, None),
        (["--validation_size", "56"], 200, 64, 56),
    ],
    ids=str,
)
def test_sizes_are_those_asked_for(flags, train, test, validation):
    loaded = data.load_for(config.parse([*TINY_RUN, *flags]))
    assert (len(loaded.train.labels), len(loaded.test.labels)) == (train, test)
    assert (loaded.validation and len(loaded.validation.labels)) == validation


def test_every_random_draw_is_the_same_compiled_or_not():
    """Over steps that leave the weights as they are, so that nothing but the draws can tell the losses apart."""
    flags = ("--augment", "--dropout", "0.5", "--learning_rate", "1e-30")
    losses = []
    for xla in (False, True):
        run = SteppedRun(*flags, steps=0, xla=xla)
        losses.append([float(run.train(step + 1).loss) for step in range(6)])
    assert len(set(losses[0])) == 6
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
