"""The getter in other TF 1.x code: supported layers, and unsupported layers that fail loudly."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.commands import ROOT

from ema import check_replaced, ema_getter


def own_layers(x, training):
    """Layers with tf.get_variable and a hand-written batch norm."""
    weights = tf.get_variable("weights", [x.shape[-1], 3])
    mean = tf.get_variable("mean", [3], initializer=tf.zeros_initializer(), trainable=False)
    x = x @ weights
    if not training:
        return x - mean
    batch_mean = tf.reduce_mean(x, 0)
    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, mean.assign(0.9 * mean + 0.1 * batch_mean))
    return x - batch_mean


def legacy_layers(x, training):
    """Layers of tf.compat.v1, available with TF_USE_LEGACY_KERAS=1 and tf_keras."""
    x = tf.layers.dense(x, 4, name="first")
    x = tf.layers.batch_normalization(x, training=training, name="norm")
    return tf.layers.dense(x, 3, name="second")


def keras_layers(x, training):
    """Layers that bypass tf.get_variable."""
    return tf.keras.layers.Dense(3, name="dense")(x)


def check(network):
    """Trains a network; checks that the EMA logits are the raw logits with the averages restored as weights."""
    with tf.Graph().as_default(), tf.Session() as session:
        x, labels = tf.placeholder(tf.float32, [None, 5]), tf.placeholder(tf.int64, [None])
        with tf.variable_scope("network"):
            logits = network(x, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        var_list = tf.trainable_variables()
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            train_op = tf.train.AdamOptimizer(0.01).minimize(loss)
        ema = tf.train.ExponentialMovingAverage(decay=0.9)
        with tf.control_dependencies([train_op]):
            train_op = ema.apply(var_list)
        getter = ema_getter(ema)
        with tf.variable_scope("network", reuse=True, custom_getter=getter):
            ema_logits = network(x, training=False)
        check_replaced(getter, var_list, ema_logits)
        with tf.variable_scope("network", reuse=True):
            raw_logits = network(x, training=False)
        saver = tf.train.Saver(ema.variables_to_restore())  # restores the averages as weights
        session.run(tf.global_variables_initializer())
        random = np.random.default_rng(0)
        feeds = {x: random.normal(size=(16, 5)), labels: random.integers(0, 3, 16)}
        for _ in range(5):
            session.run(train_op, feeds)
        expected, before = session.run([ema_logits, raw_logits], feeds)
        assert abs(before - expected).max() > 1e-3
        path = tf.train.Saver().save(session, os.path.join(tf.test.get_temp_dir(), "model"))
        saver.restore(session, path)
        np.testing.assert_allclose(session.run(raw_logits, feeds), expected, rtol=1e-5, atol=1e-6)


def test_hand_written_layers():
    check(own_layers)


def test_legacy_layers():
    """In another process, because an environment variable selects Keras."""
    command = [sys.executable, "-c", "from test_own_code import *; tf.disable_eager_execution(); check(legacy_layers)"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TF_USE_LEGACY_KERAS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def shared_weights(x):
    with tf.variable_scope("shared", reuse=tf.AUTO_REUSE):
        return x @ tf.get_variable("w", [3, 3]) @ tf.get_variable("w", [3, 3])


def weight_normalization(x):
    def normalize(getter, name, *args, **kwargs):
        weights = getter(name, *args, **kwargs)
        return weights * getter(f"{name}_scale", shape=[]) / tf.norm(weights)

    with tf.variable_scope("normalized", custom_getter=normalize):
        return x @ tf.get_variable("w", [3, 4])


def float16_storage(x):
    def cast(getter, name, *args, **kwargs):
        return tf.cast(getter(name, *args, **kwargs), tf.float16)

    with tf.variable_scope("cast", custom_getter=cast):
        return tf.cast(tf.cast(x, tf.float16) @ tf.get_variable("w", [3, 4]), tf.float32)


def control_flow(x):
    start = tf.get_variable("w", [3, 3])

    def body(step, state):
        with tf.variable_scope(tf.get_variable_scope(), reuse=True):
            return step + 1, state @ tf.get_variable("w", [3, 3])

    _, state = tf.while_loop(lambda step, _: step < 3, body, [0, x @ start])
    other = tf.get_variable("other", [3, 3])
    return tf.cond(tf.reduce_sum(state) > 0, lambda: state @ other, lambda: state)


def frozen_layer(x):
    return x @ tf.get_variable("frozen", [3, 3], trainable=False) @ tf.get_variable("w", [3, 4])


def reference_variable(x):
    with tf.variable_scope("reference", use_resource=False):
        return x @ tf.get_variable("w", [3, 4])


def cached_value(x):
    with tf.variable_scope("cached", caching_device="/cpu:0"):
        return x @ tf.get_variable("w", [3, 4])


def new_statistics(x):
    return x @ tf.get_variable("w", [3, 4]) - tf.Variable(tf.zeros([4]), trainable=False, name="statistics")


def kept_tensor(x):
    kept = tf.get_collection_ref("kept")
    weights = tf.get_variable("w", [3, 4])
    kept.append(weights / tf.norm(weights))
    return x @ kept[0]


def unused_variable(x):
    tf.get_variable("unused", [2])
    return x @ tf.get_variable("w", [3, 4])


def build_and_check(network, choose_averaged=tf.trainable_variables):
    """Builds a network and its EMA version in one scope, and checks it against all trainable variables."""
    with tf.Graph().as_default():
        x = tf.ones([2, 3])
        with tf.variable_scope("network"):
            network(x)
        ema = tf.train.ExponentialMovingAverage(0.9)
        ema.apply(choose_averaged())
        getter = ema_getter(ema)
        with tf.variable_scope("network", reuse=True, custom_getter=getter):
            output = network(x)
        check_replaced(getter, tf.trainable_variables(), output)


@pytest.mark.parametrize(
    "network",
    [shared_weights, weight_normalization, float16_storage, control_flow, frozen_layer, reference_variable],
)
def test_check_accepts(network):
    build_and_check(network)


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (cached_value, "caching_device"),
        (new_statistics, "statistics"),
        (kept_tensor, "bypasses the getter"),
        (unused_variable, "unused"),
    ],
)
def test_check_refuses(network, named):
    with pytest.raises(ValueError, match=named):
        build_and_check(network)


def test_check_refuses_missing_average():
    with pytest.raises(ValueError, match="to ema"):
        build_and_check(weight_normalization, lambda: tf.trainable_variables()[:1])


def test_check_refuses_average_outside_var_list():
    with pytest.raises(ValueError, match="frozen"):
        build_and_check(frozen_layer, tf.global_variables)


def test_keras_layers_are_refused():
    with pytest.raises(ValueError, match="dense"):
        check(keras_layers)
