"""The layers and the classifier against NumPy in float64."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import model

PARAMETERS_AT_WIDTH_1 = 1_998_068  # the guide's network: 9 convolutions, 1 dense layer, gamma and beta for each
EPSILON = 1e-3
MOMENTUM = 0.99
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


# ---------------------------------------------------------------------------------------------------------------
# NumPy's own layers


def np_conv(x, weights):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", patches, weights)


def np_batch_norm(x, gamma, beta, mean, var):
    return gamma * (x - mean) / np.sqrt(var + EPSILON) + beta


def np_leaky_relu(x):
    return np.where(x > 0, x, 0.1 * x)


def np_max_pool(x):
    """Windows that reach over the edge of an odd-sized image see what there is of it."""
    return np.stack(
        [
            np.stack([x[:, r : r + 2, c : c + 2].max((1, 2)) for c in range(0, x.shape[2], 2)], axis=1)
            for r in range(0, x.shape[1], 2)
        ],
        axis=1,
    )


def np_classifier(x, values):
    """The guide's network at test time; `values` maps variable names without `class/` to arrays."""

    def normalised(x, layer):
        return np_batch_norm(x, *(values[f"{layer}/{name}"] for name in ("gamma", "beta", "mean", "var")))

    for block in ("conv1", "conv2", "conv3"):
        for layer in (f"{block}_1", f"{block}_2", f"{block}_3"):
            x = np_leaky_relu(normalised(np_conv(x, values[f"{layer}/conv/weights"]), layer))
        if block != "conv3":
            x = np_max_pool(x)
    return normalised(x.mean((1, 2)) @ values["dense/dense/weights"], "dense")


# ---------------------------------------------------------------------------------------------------------------
# Fixtures


@pytest.fixture
def images(random):
    return random.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)


def small(x, phase, **arguments):
    return model.classifier(x, phase, **{"width": 0.05, **arguments})


def by_name(variables):
    return {variable.op.name: variable for variable in variables}


def randomise(session, random):
    """Gives every variable another value, as after long training; returns them without their scope `class/`."""
    values = {}
    for variable in tf.global_variables():
        shape = variable.shape.as_list()
        positive = variable.op.name.endswith(("gamma", "var"))
        value = random.uniform(0.5, 1.5, shape) if positive else random.normal(0, 0.3, shape)
        variable.load(value, session)
        values[variable.op.name.removeprefix("class/")] = np.float64(np.float32(value))
    return values


# ---------------------------------------------------------------------------------------------------------------
# Layers


def test_conv2d_is_a_3x3_correlation_with_zero_padding(session, initialised, random):
    x = random.normal(size=(2, 5, 7, 3))
    output = model.conv2d(tf.constant(x, tf.float32), 4, "conv")
    initialised()
    value, weights = session.run([output, tf.global_variables()[0]])
    np.testing.assert_allclose(value, np_conv(x, np.float64(weights)), **CLOSE)


def test_dense_is_a_matrix_product(session, initialised, random):
    x = random.normal(size=(6, 5))
    output = model.dense(tf.constant(x, tf.float32), 3, "dense")
    initialised()
    value, weights = session.run([output, tf.global_variables()[0]])
    np.testing.assert_allclose(value, x @ np.float64(weights), **CLOSE)


def test_initial_weights_have_variance_2_over_fan_in(session, initialised):
    model.conv2d(tf.zeros([1, 4, 4, 64]), 256, "conv")
    model.dense(tf.zeros([1, 576]), 256, "dense")
    for weights in initialised().run(tf.global_variables()):
        assert weights.var() == pytest.approx(2 / 576, rel=0.03)  # 3 * 3 * 64 = 576
        assert abs(weights.mean()) < 0.01 * weights.std()


@pytest.mark.parametrize("size", [4, 5, 1])
def test_max_pool_takes_the_largest_of_each_2x2_window(session, random, size):
    x = random.normal(size=(2, size, size + 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(session.run(model.max_pool(tf.constant(x))), np_max_pool(x))


def test_avg_pool_averages_over_the_image_in_float32(session, random):
    x = tf.constant(random.normal(size=(2, 8, 8, 3)), tf.bfloat16)
    pooled = model.avg_pool(x)
    assert pooled.dtype == tf.float32
    exact = np.float64(session.run(tf.cast(x, tf.float32))).mean((1, 2))
    np.testing.assert_allclose(session.run(pooled), exact, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------
# Batch normalisation

SHAPES = pytest.mark.parametrize("shape", [(3, 4, 5, 6), (7, 6)], ids=["images", "vectors"])


def small_scale_batch(random, shape):
    """A variance near epsilon, so that a wrong epsilon or a wrong divisor shows, and a mean that is not 0."""
    return random.normal(0.5, 0.04, shape).astype(np.float32)


@SHAPES
def test_batch_norm_in_training_uses_the_population_statistics_of_the_batch(session, initialised, random, shape):
    x = small_scale_batch(random, shape)
    output = model.batch_norm(tf.constant(x), phase=True)
    initialised()
    values = randomise(session, random)
    axes, exact = tuple(range(len(shape) - 1)), np.float64(x)
    expected = np_batch_norm(exact, values["gamma"], values["beta"], exact.mean(axes), exact.var(axes))
    np.testing.assert_allclose(session.run(output), expected, **CLOSE)


@SHAPES
@pytest.mark.parametrize("momentum", [MOMENTUM, 0.5], ids=["default", "tensor"])
def test_moving_averages_follow_the_recurrence_over_population_statistics(
    session, initialised, random, shape, momentum
):
    x = tf.placeholder(tf.float32, shape)
    arguments, feeds = {}, {}
    if momentum != MOMENTUM:
        arguments["momentum"] = tf.placeholder(tf.float32, [])
        feeds[arguments["momentum"]] = momentum
    model.batch_norm(x, phase=True, **arguments)
    variables = by_name(tf.global_variables())
    initialised()
    mean, var = np.zeros(shape[-1]), np.ones(shape[-1])
    axes = tuple(range(len(shape) - 1))
    for _ in range(5):
        batch = random.normal(0.5, 2, shape)
        session.run(tf.get_collection("update_ops"), {x: batch, **feeds})
        mean = momentum * mean + (1 - momentum) * batch.mean(axes)
        var = momentum * var + (1 - momentum) * batch.var(axes)
    observed = session.run([variables["mean"], variables["var"]])
    np.testing.assert_allclose(observed, [mean, var], rtol=1e-5, atol=1e-6)


@SHAPES
def test_batch_norm_at_test_time_uses_the_moving_statistics_and_leaves_them(session, initialised, random, shape):
    x = small_scale_batch(random, shape)
    output = model.batch_norm(tf.constant(x), phase=False)
    initialised()
    values = randomise(session, random)
    expected = np_batch_norm(np.float64(x), *(values[name] for name in ("gamma", "beta", "mean", "var")))
    np.testing.assert_allclose(session.run(output), expected, **CLOSE)
    for name, variable in by_name(tf.global_variables()).items():
        np.testing.assert_array_equal(session.run(variable), np.float32(values[name]))
    assert tf.get_collection("update_ops") == []


def test_external_updates_wait_in_the_collection(session, initialised, random):
    output = model.batch_norm(tf.constant(random.normal(size=(8, 3)), tf.float32), phase=True, internal_update=False)
    statistics = [by_name(tf.global_variables())[name] for name in ("mean", "var")]
    initialised()
    session.run(output)
    np.testing.assert_array_equal(session.run(statistics), [[0] * 3, [1] * 3])
    assert len(tf.get_collection("update_ops")) == 2
    session.run(tf.get_collection("update_ops"))
    assert np.all(np.array(session.run(statistics)) != [[0] * 3, [1] * 3])


def test_a_list_takes_the_updates_that_the_caller_does(session, initialised, random):
    x = random.normal(size=(8, 3)).astype(np.float32)
    updates = []
    output = model.batch_norm(tf.constant(x), phase=True, internal_update=updates)
    initialised()
    session.run(output)
    mean, var = (next(v for v in tf.global_variables() if v.op.name == name) for name in ("mean", "var"))
    assert [variable for _, variable in updates] == [mean, var] and tf.get_collection("update_ops") == []
    np.testing.assert_array_equal(session.run([mean, var]), [np.zeros(3), np.ones(3)])
    session.run([variable.assign(value) for value, variable in updates])
    np.testing.assert_allclose(session.run(mean), 0.01 * x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(session.run(var), 0.99 + 0.01 * x.var(0), rtol=1e-5)


def test_internal_updates_run_before_the_output_and_leave_the_collection_empty(session, initialised, random):
    x = random.normal(size=(8, 3))
    output = model.batch_norm(tf.constant(x, tf.float32), phase=True, internal_update=True)
    mean = by_name(tf.global_variables())["mean"]
    assert tf.get_collection("update_ops") == []
    with tf.control_dependencies([output]):
        mean_after = mean.read_value()
    initialised()
    np.testing.assert_allclose(session.run(mean_after), 0.01 * x.mean(0), rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------------
# Dropout


def test_dropout_is_off_at_test_time(session, random):
    x = random.normal(size=(50, 50)).astype(np.float32)
    np.testing.assert_array_equal(session.run(model.dropout(tf.constant(x), phase=False, rate=0.9)), x)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [None, [3, 4]], ids=["stateful", "stateless"])
def test_dropout_zeroes_the_rate_and_scales_the_rest(session, rate, seed):
    value = session.run(model.dropout(tf.ones([200, 500]), phase=True, rate=rate, seed=seed))
    assert (value == 0).mean() == pytest.approx(rate, abs=0.01)
    rounding = 2**-17 / (1 - rate)  # a seeded rate is a multiple of 2^-16
    np.testing.assert_allclose(value[value != 0], 1 / (1 - rate), rtol=rounding + 1e-6)


# ---------------------------------------------------------------------------------------------------------------
# The classifier


def test_guide_arguments_alone_build_the_guide_network(session, initialised, images):
    model.classifier(images, True)
    logits = model.classifier(images, False, "class", True, False, None)
    parameters = sum(np.prod(variable.shape.as_list()) for variable in tf.trainable_variables("class"))
    assert parameters == PARAMETERS_AT_WIDTH_1
    assert initialised().run(logits).shape == (4, 10)


def test_variable_names_are_those_of_the_guide(session):
    small(tf.zeros([1, 32, 32, 3]), phase=True)
    layers = [f"class/conv{block}_{layer}" for block in (1, 2, 3) for layer in (1, 2, 3)] + ["class/dense"]
    weights = {f"{layer}/{'dense' if layer.endswith('dense') else 'conv'}/weights" for layer in layers}
    trainable = weights | {f"{layer}/{name}" for layer in layers for name in ("gamma", "beta")}
    statistics = {f"{layer}/{name}" for layer in layers for name in ("mean", "var")}
    assert set(by_name(tf.trainable_variables())) == trainable
    assert set(by_name(tf.global_variables())) == trainable | statistics


def test_classifier_at_test_time_equals_numpy(session, initialised, images, random):
    logits = small(tf.constant(images), phase=False)
    initialised()
    values = randomise(session, random)
    np.testing.assert_allclose(session.run(logits), np_classifier(np.float64(images), values), rtol=1e-3, atol=1e-4)


def test_reused_classifier_shares_every_variable(session, initialised, images):
    first = small(images, phase=False)
    names = set(by_name(tf.global_variables()))
    second = small(images, phase=False, reuse=True)
    small(images, phase=True, reuse=True)
    assert set(by_name(tf.global_variables())) == names
    np.testing.assert_array_equal(*initialised().run([first, second]))


def test_custom_getter_sees_every_variable_once(session):
    seen = []

    def spy(getter, name, *args, **kwargs):
        seen.append(name)
        return getter(name, *args, **kwargs)

    small(tf.zeros([1, 32, 32, 3]), phase=True, getter=spy)
    assert sorted(seen) == sorted(by_name(tf.global_variables()))


def test_custom_getter_replaces_what_the_network_computes_with(session, initialised, images, random):
    def ones_for_beta(getter, name, *args, **kwargs):
        variable = getter(name, *args, **kwargs)
        return tf.ones_like(variable) if name.endswith("beta") else variable

    small(images, phase=False)
    logits = small(tf.constant(images), phase=False, reuse=True, getter=ones_for_beta)
    initialised()
    values = randomise(session, random)
    values = {name: np.ones_like(value) if name.endswith("beta") else value for name, value in values.items()}
    np.testing.assert_allclose(session.run(logits), np_classifier(np.float64(images), values), rtol=1e-3, atol=1e-4)


def test_batch_norm_momentum_reaches_every_layer(session, initialised, images):
    small(images, phase=True, momentum=1.0)
    initialised().run(tf.get_collection("update_ops"))
    statistics = {name: v for name, v in by_name(tf.global_variables()).items() if name.endswith(("/mean", "/var"))}
    for name, value in session.run(statistics).items():
        assert (value == name.endswith("/var")).all()  # as it was initialised


def test_training_logits_are_a_pure_function_of_the_dropout_seed(session, initialised, images):
    seed = tf.placeholder(tf.int32, [2])
    logits = small(images, phase=True, seed=seed)
    initialised()
    first, again, other = (session.run(logits, {seed: value}) for value in ([0, 1], [0, 1], [0, 2]))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_classifier_drops_out_twice_by_masks_of_their_own_and_never_at_test_time(session, images, monkeypatch):
    drop, applied, masks = model.dropout, [], []

    def spy(x, phase, rate, seed):
        applied.append((x.shape.as_list(), phase, rate))
        masks.append(drop(tf.ones([64, 64]), phase, 0.5, seed))
        return x

    monkeypatch.setattr(model, "dropout", spy)
    small(images, phase=True, dropout_rate=0.3, seed=tf.constant([1, 2]))
    small(images, phase=False, reuse=True, dropout_rate=0.3)
    shapes = [[4, 16, 16, 5], [4, 8, 8, 10]]
    assert applied == [(shape, phase, 0.3) for phase in (True, False) for shape in shapes]
    first, second = (mask > 0 for mask in session.run(masks[:2]))
    assert (first == second).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("width", "channels"), [(0.05, (5, 10, 10)), (0.5, (48, 96, 96)), (0.001, (1, 1, 1))])
def test_width_multiplies_the_channels_and_leaves_at_least_one(session, width, channels):
    model.classifier(tf.zeros([1, 32, 32, 3]), phase=False, width=width)
    variables = by_name(tf.global_variables())
    for block, expected in enumerate(channels, start=1):
        assert variables[f"class/conv{block}_3/conv/weights"].shape.as_list()[-1] == expected
    assert variables["class/dense/dense/weights"].shape.as_list() == [channels[-1], 10]


def test_bfloat16_keeps_float32_variables_and_logits_and_stays_close(session, initialised, images):
    exact = model.classifier(images, phase=False, width=0.25)
    rounded = model.classifier(images, phase=False, width=0.25, reuse=True, dtype=tf.bfloat16)
    assert rounded.dtype == tf.float32
    assert {variable.dtype.base_dtype for variable in tf.global_variables()} == {tf.float32}
    exact, rounded = initialised().run([exact, rounded])
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.03  # zero would mean that nothing was computed in bfloat16


@pytest.mark.parametrize("phase", [None, 1, "train"])
def test_phase_must_be_a_bool(session, phase):
    with pytest.raises(TypeError, match="phase"):
        small(tf.zeros([1, 32, 32, 3]), phase=phase)


# ---------------------------------------------------------------------------------------------------------------
# The loss


def test_cross_entropy_against_numpy(session, random):
    logits, labels = random.normal(size=(6, 10)).astype(np.float32), random.integers(0, 10, 6)
    loss = session.run(model.cross_entropy(tf.constant(logits), tf.constant(labels)))
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    assert loss == pytest.approx(-log_p[np.arange(6), labels].mean(), rel=1e-6)


@pytest.mark.parametrize("batch", [8, None], ids=["static batch", "unknown batch"])
@pytest.mark.parametrize("train", [False, True], ids=["forward", "training step"])
def test_the_guides_own_call_moves_every_batch_statistic(session, random, batch, train):
    """`classifier(x, phase=True, internal_update=True)` on a placeholder: the call that people copy."""
    x = tf.placeholder(tf.float32, [batch, 32, 32, 3])
    logits = model.classifier(x, True, internal_update=True, width=0.05)
    fetched = logits
    if train:
        fetched = tf.train.GradientDescentOptimizer(0.0).minimize(tf.reduce_mean(logits**2))
    session.run(tf.global_variables_initializer())
    before = session.run({v.op.name: v for v in tf.global_variables()})
    pixels = random.uniform(-1, 1, (8, 32, 32, 3)).astype(np.float32)
    session.run(fetched, {x: pixels})
    after = session.run({v.op.name: v for v in tf.global_variables()})
    moved = {name for name in after if (after[name] != before[name]).any()}
    assert moved == {name for name in after if name.endswith(("/mean", "/var"))}
    assert len(moved) == 20
    features = np_conv(pixels, before["class/conv1_1/conv/weights"])
    expected = 0.01 * features.mean((0, 1, 2)), 0.99 + 0.01 * features.var((0, 1, 2))
    for name, value in zip(("mean", "var"), expected, strict=True):
        np.testing.assert_allclose(after[f"class/conv1_1/{name}"], value, rtol=1e-4, atol=1e-7)


def test_pooling_before_leaky_relu_gives_the_same_and_the_same_gradient(session, random):
    x = tf.constant(random.normal(size=(4, 8, 8, 6)).astype(np.float32))
    before = model.leaky_relu(model.max_pool(x))
    after = model.max_pool(model.leaky_relu(x))
    weights = tf.constant(random.normal(size=(4, 4, 4, 6)).astype(np.float32))
    gradients = [tf.gradients(tf.reduce_sum(weights * y), x)[0] for y in (before, after)]
    values = session.run([before, after, *gradients])
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[2], values[3])
