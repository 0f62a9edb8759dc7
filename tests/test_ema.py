"""Every moving average against a NumPy float64 recurrence over the weights that training really went through."""

import functools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import SteppedRun, dataset, initialise

import data
import ema
from model import classifier
from training.labels import RAW, RAW_RECOMPUTED, Label


def oracle(start, decay):
    """The schedules again, each written out its own way."""
    if start == "initial":
        return lambda t: decay
    if start == "warmup":
        return lambda t: min(decay, (1 + t) / (10 + t))
    # Removing the initial weights exactly is weighting the k-th of t weights by decay^(t - k), normalised.
    return lambda t: 1 - 1 / sum(decay**k for k in range(t))


@pytest.fixture(scope="module")
def full():
    """A run with everything: three decays, every policy, two power functions."""
    return SteppedRun(
        "--ema_start", "unbiased", "--ema_decay", "0.9", "0.5", "0.998",
        "--ema_batch_stats", "raw", "averaged", "recomputed", "--ema_power", "0.05", "0.1",
    )  # fmt: skip


def test_every_decay_of_a_bank_follows_its_recurrence(full):
    assert list(full.graph.averages.decays) == ["0.9", "0.5", "0.998"]
    for one in full.graph.averages.decays.values():
        full.check(one, oracle("unbiased", float(one.name)))


def test_averaged_batch_statistics_follow_the_recurrence_too(full):
    for one in full.graph.averages.decays.values():
        full.check(one, oracle("unbiased", float(one.name)), stats=True)


def test_power_functions_follow_their_recurrence(full):
    for one in full.graph.averages.power_averages:
        gamma = ema.power_gamma(float(one.name))
        full.check(one, lambda t, gamma=gamma: (1 - 1 / t) ** (gamma + 1))


@pytest.mark.parametrize("start", ["initial", "warmup"])
def test_every_start_follows_its_recurrence(start):
    run = SteppedRun("--ema_start", start, "--ema_decay", "0.9", "0.998")
    for one in run.graph.averages.decays.values():
        run.check(one, oracle(start, float(one.name)))


def test_weights_and_shadows_differ_after_training(full):
    raw = full.read(full.graph.var_class)
    for name, shadow in full.shadows(full.primary()).items():
        assert np.abs(shadow - raw[name]).max() > 0, name


def test_ema_logits_are_the_raw_classifiers_with_shadows_assigned(full):
    one = full.primary()
    kept = full.read(full.graph.var_class + full.batch_stats)
    raw, averaged, recomputed = (full.logits(Label("ema", one.name, policy)) for policy in ema.BATCH_STATS)
    shadows, shadow_stats = full.shadows(one), full.shadows(one, stats=True)
    try:
        full.write(shadows)
        np.testing.assert_allclose(full.logits(RAW), raw, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(full.logits(RAW_RECOMPUTED), recomputed, rtol=1e-4, atol=1e-4)
        full.write(shadow_stats)
        np.testing.assert_allclose(full.logits(RAW), averaged, rtol=1e-5, atol=1e-5)
    finally:
        full.write(kept)
    assert np.abs(raw - averaged).max() > 0
    assert np.abs(raw - recomputed).max() > 0


def test_recomputed_statistics_are_the_mean_over_batches_of_training_images():
    run = SteppedRun("--ema_batch_stats", "recomputed", steps=2)
    with run.tf_graph.as_default():
        images = data.to_float(tf.constant(dataset().train.images))
        weights = next(v for v in run.graph.var_class if v.op.name == "class/conv1_1/conv/weights")
        features = tf.nn.conv2d(images, weights, 1, "SAME")
        own = [v for v in tf.local_variables() if v.op.name.startswith(f"recomputed/{RAW_RECOMPUTED}/class/conv1_1/")]
    run.session.run(run.graph.test_classifiers[RAW_RECOMPUTED].recompute)
    x = run.session.run(features).astype(np.float64)
    mean, var = run.session.run(sorted(own, key=lambda v: v.op.name))
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-4)


def test_of_several_batches_the_statistics_count_alike():
    run = SteppedRun(steps=1)
    with run.tf_graph.as_default():
        weights = next(v for v in run.graph.var_class if v.op.name == "class/conv1_1/conv/weights")
        images = tf.constant(dataset().train.images)
        features = tf.nn.conv2d(data.to_float(images), weights, 1, "SAME")
        own = ema.Recomputed("four", run.batch_stats)
        network = functools.partial(classifier, width=run.settings.width, getter=ema.ema_getter(own))
        recompute = ema.recompute(network, *data.first_images(images, batch_size=16))
        statistics = [own.average(v) for v in run.batch_stats if v.op.name.startswith("class/conv1_1/")]
        run.session.run(tf.local_variables_initializer(), data.device_feeds())
    run.session.run(recompute)
    batches = run.session.run(features).astype(np.float64).reshape(4, 16, 32, 32, -1)
    mean, var = run.session.run(sorted(statistics, key=lambda v: v.op.name))
    np.testing.assert_allclose(mean, batches.mean((1, 2, 3)).mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(var, batches.var((1, 2, 3)).mean(0), rtol=1e-4)


def test_the_plain_run_is_the_guides_graph_bit_for_bit():
    """The guide written out again, a session.run a step: minimize, then apply, then the getter."""
    plain = SteppedRun(steps=4)
    made = plain.settings
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(made.seed)
        network = functools.partial(classifier, width=made.width)
        network(tf.zeros([1, 32, 32, 3]), phase=False)
        step = tf.train.get_or_create_global_step()
        batches = data.Batches(dataset().train, made.batch_size, made.seed, step)
        x, labels, seed = batches.local_batch(step.read_value())
        logits = network(x, phase=True, reuse=True, seed=seed)
        loss = tf.losses.sparse_softmax_cross_entropy(labels, logits)
        var_class = tf.get_collection("trainable_variables", "class")
        with tf.control_dependencies(tf.get_collection("update_ops")):
            train_op = tf.train.AdamOptimizer(1e-3, 0.5).minimize(loss, step, var_list=var_class)
        average = tf.train.ExponentialMovingAverage(0.998)
        with tf.control_dependencies([train_op]):
            ema_op = average.apply(var_class)
        test = data.to_float(tf.constant(dataset().test.images))
        ema_logits = network(test, phase=False, reuse=True, getter=ema.ema_getter(average))
        initialise(session)
        session.run(batches.shuffle)
        for _ in range(4):
            session.run(ema_op)
        variables, shadows = session.run([{v.op.name: v for v in var_class}, [average.average(v) for v in var_class]])
        expected_logits = session.run(ema_logits)
    for (name, expected), shadow in zip(variables.items(), shadows, strict=True):
        np.testing.assert_array_equal(plain.history[-1][name], expected, err_msg=name)
        np.testing.assert_array_equal(plain.shadows(plain.primary())[name], shadow, err_msg=name)
    np.testing.assert_array_equal(plain.logits(Label("ema", "0.998")), expected_logits)


def test_what_is_tracked_beside_it_leaves_the_plain_run_as_it_is_bit_for_bit():
    plain = SteppedRun(steps=4)
    bank = SteppedRun(
        "--ema_decay", "0.998", "0.9", "--ema_batch_stats", "raw", "averaged", "--ema_power", "0.1", steps=4
    )  # fmt: skip
    for name, value in plain.history[-1].items():
        np.testing.assert_array_equal(value, bank.history[-1][name], err_msg=name)
    ours, theirs = (run.shadows(run.primary()) for run in (plain, bank))
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_getter_hands_out_the_variable_where_there_is_no_shadow():
    with tf.Graph().as_default():
        shadowed, other = (tf.get_variable(name, [2]) for name in ("shadowed", "other"))
        average = tf.train.ExponentialMovingAverage(0.5)
        average.apply([shadowed])
        getter = ema.ema_getter(average)
        with tf.variable_scope("", reuse=True, custom_getter=getter):
            assert tf.get_variable("shadowed") is average.average(shadowed)
            assert tf.get_variable("other") is other
        ema.check_replaced(getter, [shadowed])
        with pytest.raises(ValueError, match="other itself"):
            ema.check_replaced(getter, [shadowed, other])
        with pytest.raises(ValueError, match="average of shadowed"):
            ema.check_replaced(getter, [])


def test_a_network_that_makes_variables_of_its_own_is_told_to_reuse():
    with tf.Graph().as_default():
        average = tf.train.ExponentialMovingAverage(0.5)
        weights = [tf.get_variable("weights", [2])]
        average.apply(weights)
        getter = ema.ema_getter(average)
        with tf.variable_scope("again", custom_getter=getter):
            tf.get_variable("weights", [2])
        with pytest.raises(ValueError, match="reuse=True"):
            ema.check_replaced(getter, weights)


def test_a_partitioner_is_refused():
    with tf.Graph().as_default():
        getter = ema.ema_getter(tf.train.ExponentialMovingAverage(0.5))
        split = tf.fixed_size_partitioner(2)
        with tf.variable_scope("a", partitioner=split, custom_getter=getter), pytest.raises(ValueError, match="partit"):
            tf.get_variable("weights", [4])


def test_the_check_knows_variables_on_several_replicas():
    """In a step there each replica asks for weights by a name of its own, as weights/replica_1."""
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    with tf.Graph().as_default(), strategy.scope():
        average = tf.train.ExponentialMovingAverage(0.5)
        getter = ema.ema_getter(average)

        def network(getter=None):
            with tf.variable_scope("network", reuse=tf.AUTO_REUSE, custom_getter=getter):
                return tf.get_variable("weights", [2]) * 1.0

        def replica():
            network()
            weights = tf.trainable_variables()
            tf.distribute.get_replica_context().merge_call(lambda _: average.apply(weights))
            return network(getter)

        strategy.run(replica)
        ema.check_replaced(getter, tf.trainable_variables())


# ---------------------------------------------------------------------------------------------------------------
# The schedules as functions

decays = st.floats(0, 0.99999)
numbers = st.integers(1, 100_000)


def evaluate(decay, start, numbers):
    """scheduled_decay at each of `numbers`, in one graph."""
    with tf.Graph().as_default(), tf.Session() as session:
        values = [tf.convert_to_tensor(ema.scheduled_decay(decay, start, tf.constant(t, tf.int64))) for t in numbers]
        return session.run(values)


few = settings(max_examples=25, deadline=None)  # a graph and a session each


@few
@given(decay=decays, start=st.sampled_from(ema.STARTS), numbers=st.lists(numbers, min_size=1, max_size=8))
def test_a_decay_is_never_above_the_constant_one_nor_negative_nor_nan(decay, start, numbers):
    for value in evaluate(decay, start, numbers):
        assert 0 <= value <= decay * (1 + 1e-12)


@few
@given(decay=st.floats(0.01, 0.9999), numbers=st.lists(st.integers(1, 2000), min_size=1, max_size=8))
def test_unbiased_decay_is_one_minus_the_newest_weights_share(decay, numbers):
    expected = [oracle("unbiased", decay)(t) for t in numbers]
    np.testing.assert_allclose(evaluate(decay, "unbiased", numbers), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay", [0.5, 0.998, 0.99999])
def test_the_first_unbiased_update_takes_the_weights_whole(decay):
    assert evaluate(decay, "unbiased", [1]) == [0]


@given(decay=decays, start=st.sampled_from(ema.STARTS), updates=st.integers(0, 300))
def test_initial_share_is_the_product_of_the_decays(decay, start, updates):
    decay_of = oracle(start, decay)
    product = np.prod([decay_of(t) for t in range(1, updates + 1)])
    assert ema.initial_share(decay, start, updates) == pytest.approx(product, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("decay", "start"), [("0.998", "warmup"), ("0.9999998", "warmup")])
def test_the_share_of_a_very_long_run_is_known_at_once(decay, start):
    assert ema.initial_share(float(decay), start, 10**12) < 1e-30


@given(decay=st.floats(0.2, 0.9999))
def test_warmup_rules_up_to_the_step_that_the_log_names(decay):
    warm, step = oracle("warmup", decay), ema.warmup_steps(decay)
    assert warm(step) == decay
    assert step == 1 or warm(step - 1) < decay


@pytest.mark.parametrize(
    ("decays", "start", "steps", "named"),
    [
        (["0.998"], "initial", 15620, []),
        (["0.998"], "initial", 781, ["21%", "--ema_start warmup"]),
        (["0.998"], "unbiased", 781, []),
        (["0.9998"], "warmup", 44_990, []),
        (["0.9998"], "warmup", 44_989, ["44,990"]),
        (["0.99", "0.998", "0.9995"], "warmup", 210, ["0.99, 0.998, 0.9995", "--ema_start unbiased"]),
        (["0.9", "0.998", "0.9995"], "warmup", 210, ["0.998, 0.9995", "--ema_start unbiased"]),
        (["0.9", "0.98"], "warmup", 84, ["until step 80 of 84", "0.9, 0.98", "--ema_start unbiased"]),
        (["0.9", "0.98"], "warmup", 160, ["until step 440", "0.98 a shorter one"]),  # 0.9 rules half of the run
    ],
)
def test_the_log_says_what_decays_mean_for_a_run(decays, start, steps, named):
    with tf.Graph().as_default():
        texts = ema.MovingAverages(decays, start).describe(steps, 781)
    for decay, text in zip(decays, texts, strict=False):
        horizon = 1 / (1 - float(decay))
        assert f"decay {decay}" in text and f"{horizon:.4g} steps" in text and f"{horizon / 781:.2g} epochs" in text
    more = texts[len(decays) :]
    assert len(more) == bool(named)
    assert all(part in more[0] for part in named)


@given(width=st.floats(0.01, 0.27))
def test_gamma_gives_the_asked_relative_width(width):
    gamma = ema.power_gamma(width)
    assert (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) == pytest.approx(width**2, rel=1e-6)
