"""The layers and the classifier against NumPy in float64."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import model

PARAMETERS_AT_WIDTH_1 = 1_998_068  # of the guide: 9 convolutions, 1 dense layer, gamma and beta for each
EPSILON = 1e-3
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
SHAPES = pytest.mark.parametrize("shape", [(3, 4, 5, 6), (7, 6)], ids=["images", "vectors"])


def np_conv(x, weights):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", patches, weights)


def np_batch_norm(x, gamma, beta, mean, var):
    return gamma * (x - mean) / np.sqrt(var + EPSILON) + beta


def np_leaky_relu(x):
    return np.where(x > 0, x, 0.1 * x)


def np_max_pool(x):
    """Windows at the edge of an odd-sized image are smaller."""
    _, height, width, _ = x.shape
    rows = [
        np.stack([x[:, row : row + 2, column : column + 2].max((1, 2)) for column in range(0, width, 2)], axis=1)
        for row in range(0, height, 2)
    ]
    return np.stack(rows, axis=1)


def np_classifier(x, values):
    """The guide's network in testing; `values` maps variable names without `class/` to arrays."""

    def normalise(x, layer):
        return np_batch_norm(x, *(values[f"{layer}/{name}"] for name in ("gamma", "beta", "mean", "var")))

    for block in ("conv1", "conv2", "conv3"):
        for layer in (f"{block}_1", f"{block}_2", f"{block}_3"):
            x = np_leaky_relu(normalise(np_conv(x, values[f"{layer}/conv/weights"]), layer))
        if block != "conv3":
            x = np_max_pool(x)
    return normalise(x.mean((1, 2)) @ values["dense/dense/weights"], "dense")


@pytest.fixture
def images(random):
    return random.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)


def small(x, phase, **arguments):
    return model.classifier(x, phase, **{"width": 0.05, **arguments})


def by_name(variables):
    return {variable.op.name: variable for variable in variables}


def randomise(session, random):
    """Gives every variable a random value; returns the values by name without `class/`."""
    values = {}
    for variable in tf.global_variables():
        shape = variable.shape.as_list()
        positive = variable.op.name.endswith(("gamma", "var"))
        value = random.uniform(0.5, 1.5, shape) if positive else random.normal(0, 0.3, shape)
        variable.load(value, session)
        values[variable.op.name.removeprefix("class/")] = np.float64(np.float32(value))
    return values


@pytest.mark.parametrize(
    ("layer", "oracle", "shape"), [(model.conv2d, np_conv, (2, 5, 7, 3)), (model.dense, np.matmul, (6, 5))]
)
def test_linear_layers(session, initialised, random, layer, oracle, shape):
    x = random.normal(size=shape)
    output = layer(tf.constant(x, tf.float32), 4, "layer")
    initialised()
    value, weights = session.run([output, tf.global_variables()[0]])
    np.testing.assert_allclose(value, oracle(x, np.float64(weights)), **CLOSE)


def test_initial_variance_is_2_over_fan_in(session, initialised):
    model.conv2d(tf.zeros([1, 4, 4, 64]), 256, "conv")
    model.dense(tf.zeros([1, 576]), 256, "dense")
    for weights in initialised().run(tf.global_variables()):
        assert weights.var() == pytest.approx(2 / 576, rel=0.03)  # 3 * 3 * 64 = 576
        assert abs(weights.mean()) < 0.01 * weights.std()


@pytest.mark.parametrize("size", [4, 5, 1])
def test_max_pool(session, random, size):
    x = random.normal(size=(2, size, size + 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(session.run(model.max_pool(tf.constant(x))), np_max_pool(x))


def test_avg_pool_sums_in_float32(session, random):
    x = tf.constant(random.normal(size=(2, 8, 8, 3)), tf.bfloat16)
    pooled = model.avg_pool(x)
    assert pooled.dtype == tf.float32
    exact = np.float64(session.run(tf.cast(x, tf.float32))).mean((1, 2))
    np.testing.assert_allclose(session.run(pooled), exact, rtol=1e-5, atol=1e-6)


def test_pooling_before_leaky_relu(session, random):
    x = tf.constant(random.normal(size=(4, 8, 8, 6)).astype(np.float32))
    weights = tf.constant(random.normal(size=(4, 4, 4, 6)).astype(np.float32))
    outputs = [model.leaky_relu(model.max_pool(x)), model.max_pool(model.leaky_relu(x))]
    gradients = [tf.gradients(tf.reduce_sum(weights * output), x)[0] for output in outputs]
    for first, second in (session.run(outputs), session.run(gradients)):
        np.testing.assert_array_equal(first, second)


@SHAPES
@pytest.mark.parametrize("phase", [True, False], ids=["training", "testing"])
def test_batch_norm_output(session, initialised, random, shape, phase):
    x = random.normal(0.5, 0.04, shape).astype(np.float32)  # a variance near epsilon exposes a wrong epsilon or divisor
    output = model.batch_norm(tf.constant(x), phase=phase)
    initialised()
    values = randomise(session, random)
    axes, exact = tuple(range(len(shape) - 1)), np.float64(x)
    mean, var = (exact.mean(axes), exact.var(axes)) if phase else (values["mean"], values["var"])
    expected = np_batch_norm(exact, values["gamma"], values["beta"], mean, var)
    np.testing.assert_allclose(session.run(output), expected, **CLOSE)
    for name, variable in by_name(tf.global_variables()).items():
        np.testing.assert_array_equal(session.run(variable), np.float32(values[name]))
    assert len(tf.get_collection("update_ops")) == 2 * phase


@SHAPES
@pytest.mark.parametrize("momentum", [None, 0.5], ids=["default", "tensor"])
def test_moving_statistics_follow_recurrence(session, initialised, random, shape, momentum):
    x, tensor = tf.placeholder(tf.float32, shape), tf.placeholder_with_default(0.5, [])
    model.batch_norm(x, phase=True, **({"momentum": tensor} if momentum else {}))
    variables = by_name(tf.global_variables())
    initialised()
    mean, var, momentum = np.zeros(shape[-1]), np.ones(shape[-1]), momentum or 0.99
    axes = tuple(range(len(shape) - 1))
    for _ in range(5):
        batch = random.normal(0.5, 2, shape)
        session.run(tf.get_collection("update_ops"), {x: batch})
        mean = momentum * mean + (1 - momentum) * batch.mean(axes)
        var = momentum * var + (1 - momentum) * batch.var(axes)
    moving = session.run([variables["mean"], variables["var"]])
    np.testing.assert_allclose(moving, [mean, var], rtol=1e-5, atol=1e-6)


def test_list_takes_updates(session, initialised, random):
    x = random.normal(size=(8, 3)).astype(np.float32)
    updates = []
    output = model.batch_norm(tf.constant(x), phase=True, internal_update=updates)
    initialised()
    session.run(output)
    mean, var = (by_name(tf.global_variables())[name] for name in ("mean", "var"))
    assert [variable for _, variable in updates] == [mean, var] and tf.get_collection("update_ops") == []
    np.testing.assert_array_equal(session.run([mean, var]), [np.zeros(3), np.ones(3)])
    session.run([variable.assign(value) for value, variable in updates])
    np.testing.assert_allclose(session.run(mean), 0.01 * x.mean(0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(session.run(var), 0.99 + 0.01 * x.var(0), rtol=1e-5)


def test_internal_updates_precede_output(session, initialised, random):
    x = random.normal(size=(8, 3))
    output = model.batch_norm(tf.constant(x, tf.float32), phase=True, internal_update=True)
    assert tf.get_collection("update_ops") == []
    with tf.control_dependencies([output]):
        mean_after = by_name(tf.global_variables())["mean"].read_value()
    initialised()
    np.testing.assert_allclose(session.run(mean_after), 0.01 * x.mean(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", [None, [3, 4]], ids=["stateful", "stateless"])
def test_dropout_rate_and_scale(session, rate, seed):
    ones = tf.ones([200, 500])
    value, unchanged = session.run([model.dropout(ones, phase, rate=rate, seed=seed) for phase in (True, False)])
    assert (value == 0).mean() == pytest.approx(rate, abs=0.01)
    rounding = 2**-17 / (1 - rate)  # a seeded rate is a multiple of 2^-16
    np.testing.assert_allclose(value[value != 0], 1 / (1 - rate), rtol=rounding + 1e-6)
    assert (unchanged == 1).all()


def test_dropout_depends_on_seed(session, initialised, images):
    seed = tf.placeholder(tf.int32, [2])
    logits = small(images, phase=True, seed=seed)
    initialised()
    first, again, other = (session.run(logits, {seed: value}) for value in ([0, 1], [0, 1], [0, 2]))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_classifier_has_two_dropouts(session, images, monkeypatch):
    dropout, calls, masks = model.dropout, [], []

    def spy(x, phase, rate, seed):
        calls.append((x.shape.as_list(), phase, rate))
        masks.append(dropout(tf.ones([64, 64]), phase, 0.5, seed))
        return x

    monkeypatch.setattr(model, "dropout", spy)
    small(images, phase=True, dropout_rate=0.3, seed=tf.constant([1, 2]))
    small(images, phase=False, reuse=True, dropout_rate=0.3)
    shapes = [[4, 16, 16, 5], [4, 8, 8, 10]]
    assert calls == [(shape, phase, 0.3) for phase in (True, False) for shape in shapes]
    first, second = (mask > 0 for mask in session.run(masks[:2]))
    assert (first == second).mean() == pytest.approx(0.5, abs=0.05)


def test_guide_arguments_build_guide_network(session, initialised, images):
    model.classifier(images, True)
    logits = model.classifier(images, False, "class", True, False, None)
    trainable, layers = by_name(tf.trainable_variables("class")), [f"conv{b}_{n}" for b in (1, 2, 3) for n in (1, 2, 3)]
    assert sum(np.prod(variable.shape.as_list()) for variable in trainable.values()) == PARAMETERS_AT_WIDTH_1
    weights = {f"class/{layer}/conv/weights" for layer in layers} | {"class/dense/dense/weights"}
    norms = {
        name: {f"class/{layer}/{name}" for layer in [*layers, "dense"]} for name in ("gamma", "beta", "mean", "var")
    }
    assert set(trainable) == weights | norms["gamma"] | norms["beta"]
    assert set(by_name(tf.global_variables())) == set(trainable) | norms["mean"] | norms["var"]
    assert initialised().run(logits).shape == (4, 10)


def test_classifier_equals_numpy(session, initialised, images, random):
    logits = small(tf.constant(images), phase=False)
    initialised()
    values = randomise(session, random)
    np.testing.assert_allclose(session.run(logits), np_classifier(np.float64(images), values), rtol=1e-3, atol=1e-4)


def test_getter_replaces_variables(session, initialised, images, random):
    def ones_for_beta(getter, name, *args, **kwargs):
        variable = getter(name, *args, **kwargs)
        return tf.ones_like(variable) if name.endswith("beta") else variable

    small(images, phase=False)
    logits = small(tf.constant(images), phase=False, reuse=True, getter=ones_for_beta)
    initialised()
    values = randomise(session, random)
    values = {name: np.ones_like(value) if name.endswith("beta") else value for name, value in values.items()}
    np.testing.assert_allclose(session.run(logits), np_classifier(np.float64(images), values), rtol=1e-3, atol=1e-4)


def test_momentum_reaches_every_layer(session, initialised, images):
    small(images, phase=True, momentum=1.0)
    initialised().run(tf.get_collection("update_ops"))
    statistics = {name: v for name, v in by_name(tf.global_variables()).items() if name.endswith(("/mean", "/var"))}
    for name, value in session.run(statistics).items():
        assert (value == name.endswith("/var")).all()  # the initial value


@pytest.mark.parametrize(("width", "channels"), [(0.05, (5, 10, 10)), (0.5, (48, 96, 96)), (0.001, (1, 1, 1))])
def test_width_multiplies_channels(session, width, channels):
    logits = model.classifier(tf.zeros([1, 24, 24, 3]), phase=False, width=width, num_classes=7)
    variables = by_name(tf.global_variables())
    for block, expected in enumerate(channels, start=1):
        assert variables[f"class/conv{block}_3/conv/weights"].shape.as_list()[-1] == expected
    assert variables["class/dense/dense/weights"].shape.as_list() == [channels[-1], 7]
    assert logits.shape.as_list() == [1, 7]


def test_bfloat16_is_close(session, initialised, images):
    exact = model.classifier(images, phase=False, width=0.25)
    rounded = model.classifier(images, phase=False, width=0.25, reuse=True, dtype=tf.bfloat16)
    assert rounded.dtype == tf.float32
    assert {variable.dtype.base_dtype for variable in tf.global_variables()} == {tf.float32}
    exact, rounded = initialised().run([exact, rounded])
    error = np.abs(rounded - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.03  # 0 if nothing was computed in bfloat16


def test_phase_must_be_bool(session):
    with pytest.raises(TypeError, match="phase"):
        small(tf.zeros([1, 32, 32, 3]), phase=1)


def test_loss_and_correct_count(session, random):
    logits, labels = random.normal(size=(6, 10)).astype(np.float32), random.integers(0, 10, 6)
    functions = model.cross_entropy, model.count_correct
    loss, correct = session.run([function(tf.constant(logits), tf.constant(labels)) for function in functions])
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    assert loss == pytest.approx(-log_p[np.arange(6), labels].mean(), rel=1e-6)
    assert correct == (logits.argmax(1) == labels).sum()


@pytest.mark.parametrize("batch", [8, None], ids=["static batch", "unknown batch"])
@pytest.mark.parametrize("train", [False, True], ids=["forward", "training step"])
def test_guide_call_updates_batch_statistics(session, random, batch, train):
    x = tf.placeholder(tf.float32, [batch, 32, 32, 3])
    fetched = logits = model.classifier(x, True, internal_update=True, width=0.05)
    if train:
        fetched = tf.train.GradientDescentOptimizer(0.0).minimize(tf.reduce_mean(logits**2))
    session.run(tf.global_variables_initializer())
    before = session.run(by_name(tf.global_variables()))
    pixels = random.uniform(-1, 1, (8, 32, 32, 3)).astype(np.float32)
    session.run(fetched, {x: pixels})
    after = session.run(by_name(tf.global_variables()))
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert changed == {name for name in after if name.endswith(("/mean", "/var"))}
    assert len(changed) == 20
    features = np_conv(pixels, before["class/conv1_1/conv/weights"])
    mean, var = features.mean((0, 1, 2)), features.var((0, 1, 2))
    np.testing.assert_allclose(after["class/conv1_1/mean"], 0.01 * mean, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(after["class/conv1_1/var"], 0.99 + 0.01 * var, rtol=1e-4)
