"""Moving averages against float64 recurrences in NumPy over the weights of a real run."""

import functools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.tiny import SteppedRun, dataset

import data
import ema
from model import classifier
from training.labels import BATCH_STATS, EMA_STARTS, RAW, RAW_RECOMPUTED, Label

# A second implementation of every start: decay of update t. "unbiased" weights the k-th of t weights by b^(t - k).
ORACLES = {
    "initial": lambda b, t: b,
    "warmup": lambda b, t: min(b, (1 + t) / (10 + t)),
    "unbiased": lambda b, t: 1 - 1 / sum(b**k for k in range(t)),
}


def oracle(start, decay):
    return functools.partial(ORACLES[start], float(decay))


@pytest.fixture(scope="module")
def full():
    """A run with three decays, every policy and two power functions."""
    return SteppedRun(
        "--ema_start", "unbiased", "--ema_decay", "0.9", "0.5", "0.998",
        "--ema_batch_stats", "raw", "averaged", "recomputed", "--ema_power", "0.05", "0.1",
    )  # fmt: skip


def test_every_start_has_one_name():
    assert tuple(ema.STARTS) == EMA_STARTS == tuple(ORACLES)


@pytest.mark.parametrize("start", EMA_STARTS)
def test_start_follows_recurrence(start):
    run = SteppedRun("--ema_start", start, "--ema_decay", "0.9", "0.998")
    for average in run.graph.averages.decays.values():
        run.check(average, oracle(start, average.name))


def test_all_decays_follow_recurrence(full):
    assert list(full.graph.averages.decays) == ["0.9", "0.5", "0.998"]
    raw = full.read(full.graph.var_class)
    for average in full.graph.averages.decays.values():
        full.check(average, oracle("unbiased", average.name))
        full.check(average, oracle("unbiased", average.name), stats=True)
        for name, shadow in full.shadows(average).items():
            assert np.abs(shadow - raw[name]).max() > 0, name


def test_power_functions_follow_recurrence(full):
    for average in full.graph.averages.power_averages:
        gamma = ema.power_gamma(float(average.name))
        full.check(average, lambda t, gamma=gamma: (1 - 1 / t) ** (gamma + 1))


def test_ema_logits_equal_assigned_shadows(full):
    average = full.primary()
    weights = full.read(full.graph.var_class + full.batch_stats)
    raw, averaged, recomputed = (full.logits(Label("ema", average.name, policy)) for policy in BATCH_STATS)
    shadows, shadow_stats = full.shadows(average), full.shadows(average, stats=True)
    try:
        full.write(shadows)
        np.testing.assert_allclose(full.logits(RAW), raw, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(full.logits(RAW_RECOMPUTED), recomputed, rtol=1e-4, atol=1e-4)
        full.write(shadow_stats)
        np.testing.assert_allclose(full.logits(RAW), averaged, rtol=1e-5, atol=1e-5)
    finally:
        full.write(weights)
    assert np.abs(raw - averaged).max() > 0
    assert np.abs(raw - recomputed).max() > 0


def test_more_averages_leave_training_unchanged():
    plain = SteppedRun(steps=4)
    bank = SteppedRun(
        "--ema_decay", "0.998", "0.9", "--ema_batch_stats", "raw", "averaged", "--ema_power", "0.1", steps=4
    )  # fmt: skip
    for name, value in plain.history[-1].items():
        np.testing.assert_array_equal(value, bank.history[-1][name], err_msg=name)
    for name, shadow in plain.shadows(plain.primary()).items():
        np.testing.assert_array_equal(shadow, bank.shadows(bank.primary())[name], err_msg=name)


def first_layer(variables):
    """Returns the variables of the first layer, mean before var."""
    return sorted((v for v in variables if "class/conv1_1/" in v.op.name), key=lambda v: v.op.name)


def first_features(run):
    """Returns the first convolution's output [N, 32, 32, C] float64 for all training images."""
    images = data.to_float(tf.constant(dataset().train.images))
    weights = next(v for v in run.graph.var_class if v.op.name == "class/conv1_1/conv/weights")
    return run.session.run(tf.nn.conv2d(images, weights, 1, "SAME")).astype(np.float64)


def test_recomputed_statistics_of_one_batch():
    run = SteppedRun("--ema_batch_stats", "recomputed", steps=2)
    with run.tf_graph.as_default():
        x = first_features(run)
        local = [v for v in tf.local_variables() if v.op.name.startswith(f"recomputed/{RAW_RECOMPUTED}/")]
    run.session.run(run.graph.test_classifiers[RAW_RECOMPUTED].recompute)
    mean, var = run.session.run(first_layer(local))
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-4)


def test_recomputed_statistics_are_mean_over_batches():
    run = SteppedRun(steps=1)
    with run.tf_graph.as_default():
        x = first_features(run).reshape(4, 16, 32, 32, -1)
        recomputed = ema.Recomputed("four", run.batch_stats)
        network = functools.partial(classifier, width=run.settings.width, getter=ema.ema_getter(recomputed))
        images = tf.constant(dataset().train.images)
        operation = ema.recompute(network, *data.first_images(images, batch_size=16))
        statistics = [recomputed.average(variable) for variable in first_layer(run.batch_stats)]
        run.session.run(tf.local_variables_initializer(), data.device_feeds())
    run.session.run(operation)
    mean, var = run.session.run(statistics)
    np.testing.assert_allclose(mean, x.mean((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(var, x.var((1, 2, 3)).mean(0), rtol=1e-4)


def test_getter_falls_back_to_variable():
    with tf.Graph().as_default():
        shadowed, other = (tf.get_variable(name, [2]) for name in ("shadowed", "other"))
        average = tf.train.ExponentialMovingAverage(0.5)
        average.apply([shadowed])
        getter = ema.ema_getter(average)
        with tf.variable_scope("", reuse=True, custom_getter=getter):
            assert tf.get_variable("shadowed") is average.average(shadowed)
            assert tf.get_variable("other") is other
            output = tf.get_variable("shadowed") + tf.get_variable("other")
        ema.check_replaced(getter, [shadowed], output)
        with pytest.raises(ValueError, match="other"):
            ema.check_replaced(getter, [shadowed, other], output)
        with pytest.raises(ValueError, match="shadowed"):
            ema.check_replaced(getter, [], output)


def test_getter_refuses_partitioners():
    scope = {"partitioner": tf.fixed_size_partitioner(2)}
    scope["custom_getter"] = ema.ema_getter(tf.train.ExponentialMovingAverage(0.5))
    with tf.Graph().as_default(), tf.variable_scope("a", **scope), pytest.raises(ValueError, match="partitioner"):
        tf.get_variable("weights", [4])


# ---------------------------------------------------------------------------------------------------------------
# Schedules as functions

decays = st.floats(0.001, 0.99999)
starts = st.sampled_from(EMA_STARTS)
few = settings(max_examples=25, deadline=None)  # each example needs a session


def evaluate(decay, start, updates):
    """Returns the decay of each update, from one graph."""
    schedule = ema.STARTS[start](decay)
    with tf.Graph().as_default(), tf.Session() as session:
        return session.run(
            [tf.convert_to_tensor(schedule.decay(tf.constant(t, tf.int64)), tf.float64) for t in updates]
        )


@few
@given(decay=decays, start=starts, updates=st.lists(st.integers(1, 100_000), min_size=1, max_size=8))
def test_decay_is_between_zero_and_constant(decay, start, updates):
    for value in evaluate(decay, start, updates):
        assert 0 <= value <= decay * (1 + 1e-12)


@few
@example(decay=0.99999, start="unbiased", updates=[1, 2])
@given(decay=decays, start=starts, updates=st.lists(st.integers(1, 2000), min_size=1, max_size=8))
def test_decay_equals_oracle(decay, start, updates):
    expected = [ORACLES[start](decay, t) for t in updates]
    np.testing.assert_allclose(evaluate(decay, start, updates), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", EMA_STARTS)
def test_decay_zero_is_constant(start):
    with tf.Graph().as_default():
        assert ema.MovingAverages(["0"], start).decays["0"].decay == 0.0


@given(decay=decays, start=starts, updates=st.integers(0, 300))
def test_initial_share_is_product_of_decays(decay, start, updates):
    product = np.prod([ORACLES[start](decay, t) for t in range(1, updates + 1)])
    assert ema.STARTS[start](decay).initial_share(updates) == pytest.approx(product, rel=1e-6, abs=1e-12)


def test_initial_share_of_long_run():
    for decay in (0.998, 0.9999998):
        assert ema.STARTS["warmup"](decay).initial_share(10**12) < 1e-30


@given(decay=st.floats(0.2, 0.9999))
def test_warmup_limits_until_warmup_steps(decay):
    steps = ema.STARTS["warmup"](decay).warmup_steps()
    assert ORACLES["warmup"](decay, steps) == decay
    assert steps == 1 or ORACLES["warmup"](decay, steps - 1) < decay


@given(std=st.floats(0.01, 0.27))
def test_power_gamma_gives_std(std):
    gamma = ema.power_gamma(std)
    assert (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) == pytest.approx(std**2, rel=1e-6)
