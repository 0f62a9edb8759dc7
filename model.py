"""Layers and the classifier of the guide, over `tf.compat.v1.get_variable`.

`classifier()` creates variables named `<scope>/<layer>/{weights,gamma,beta,mean,var}`. With `reuse=True` it builds the
same network over the same variables, and with a custom `getter` over other tensors: ema.py passes the shadow variables.

Variables are always float32; `dtype` is the precision of the convolutions.
"""

import tensorflow as tf2
import tensorflow.compat.v1 as tf

BLOCKS = (("conv1", 96), ("conv2", 192), ("conv3", 192))  # three 3x3 convolutions each
BATCH_NORM_MOMENTUM = 0.99
BATCH_NORM_EPSILON = 1e-3
LEAKY_RELU_SLOPE = 0.1
DROPOUT_RATE = 0.5


def _initializer():
    """Returns the guide's initializer (He et al. 2015): variance 2 / fan_in, truncated normal."""
    return tf.variance_scaling_initializer(scale=2.0, mode="fan_in", distribution="truncated_normal")


def conv2d(x, channels, name):
    """Applies a 3x3 convolution, stride 1, SAME, without bias because batch norm follows.

    Args:
      x: [N, H, W, C]; the weights are cast to its dtype.
      channels: number of output channels.
      name: variable scope of `weights` [3, 3, C, channels] float32.

    Returns:
      [N, H, W, channels] with x's dtype.
    """
    with tf.variable_scope(name):
        weights = tf.get_variable("weights", [3, 3, x.shape[-1], channels], initializer=_initializer())
        return tf.nn.conv2d(x, tf.cast(weights, x.dtype), strides=1, padding="SAME")


def dense(x, units, name):
    """Applies a fully connected layer without bias: [N, C] to [N, units], `weights` [C, units] float32."""
    with tf.variable_scope(name):
        weights = tf.get_variable("weights", [x.shape[-1], units], initializer=_initializer())
        return tf.matmul(x, tf.cast(weights, x.dtype))


def batch_norm(x, phase, internal_update=False, momentum=BATCH_NORM_MOMENTUM):
    """Applies batch normalisation (Ioffe & Szegedy 2015) over every axis but the last.

    In training, x is normalised with the mean and variance of the batch, and the moving `mean` and `var` become
    `momentum * moving + (1 - momentum) * batch`. The batch variance is the population variance, as in the guide: the
    fused kernel returns it times n / (n - 1), which is undone. In testing, x is normalised with the moving statistics.

    Args:
      x: [N, H, W, C] or [N, C], float32 or bfloat16.
      phase: True to train, False to test.
      internal_update: how to update the moving statistics in training. True: before the output is available; False:
        by the operations in the collection `update_ops`; a list: pairs (new value, variable) for the caller to assign.
      momentum: of the moving statistics; a number or a scalar tensor.

    Returns:
      A tensor with x's shape and dtype.
    """
    channels = x.shape[-1]
    gamma = tf.get_variable("gamma", [channels], initializer=tf.ones_initializer())
    beta = tf.get_variable("beta", [channels], initializer=tf.zeros_initializer())
    # With several replicas, each updates its own copy from its own slice of the batch.
    moving = {
        "trainable": False,
        "synchronization": tf.VariableSynchronization.ON_READ,
        "aggregation": tf.VariableAggregation.MEAN,
    }
    mean = tf.get_variable("mean", [channels], initializer=tf.zeros_initializer(), **moving)
    var = tf.get_variable("var", [channels], initializer=tf.ones_initializer(), **moving)
    images = x if x.shape.rank == 4 else x[:, None, None, :]  # the fused kernel needs images

    if not phase:
        output, _, _ = tf.nn.fused_batch_norm(
            images, gamma, beta, mean, var, epsilon=BATCH_NORM_EPSILON, is_training=False
        )
        return output if x.shape.rank == 4 else output[:, 0, 0, :]

    output, batch_mean, batch_var = tf.nn.fused_batch_norm(
        images, gamma, beta, epsilon=BATCH_NORM_EPSILON, is_training=True
    )
    count = tf.cast(tf.size(images) // channels, tf.float32)
    batch_var *= (count - 1) / count
    moved = [
        (tf.math.multiply_no_nan(variable, momentum) + (1 - momentum) * batch, variable)
        for variable, batch in ((mean, batch_mean), (var, batch_var))
    ]
    updates = []
    if isinstance(internal_update, list):
        internal_update.extend(moved)
    elif internal_update:
        updates = [variable.assign(value) for value, variable in moved]
    else:
        for value, variable in moved:
            tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, variable.assign(value))
    output = output if x.shape.rank == 4 else output[:, 0, 0, :]
    with tf.control_dependencies(updates):
        return tf.identity(output)  # the graph optimizer keeps the control dependencies of an identity


def leaky_relu(x):
    return tf.nn.leaky_relu(x, LEAKY_RELU_SLOPE)


def max_pool(x):
    return tf.nn.max_pool2d(x, ksize=2, strides=2, padding="SAME")


def avg_pool(x):
    """Averages over the image in float32: [N, H, W, C] to [N, C]."""
    return tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2])


def to_uint32_seed(seed):
    """Widens a seed, int32 [2] to int64 [2], so that stateless operations draw the same numbers with and without XLA.

    XLA reads only the lower 32 bits of a seed; other kernels read all 64, and would sign-extend a negative int32.
    """
    return tf.cast(tf.bitcast(tf.convert_to_tensor(seed, tf.int32), tf.uint32), tf.int64)


def dropout(x, phase, rate=DROPOUT_RATE, seed=None):
    """In training, zeroes each element with probability `rate` and divides the others by 1 - rate.

    Args:
      x: any shape, float.
      phase: True to train; False returns x.
      rate: in [0, 1); with a seed, it is rounded to a multiple of 2^-16.
      seed: None uses TensorFlow's stateful generator. With an int32 tensor [2], the mask is a pure function of the
        seed: the same on every device, with and without XLA.
    """
    if not phase or rate == 0:
        return x
    if seed is None:
        return tf.nn.dropout(x, rate=rate)
    # 16 random bits per element; drawing a float for each takes twice as long.
    size = tf.size(x)
    pairs = tf2.random.stateless_uniform([(size + 1) // 2], to_uint32_seed(seed), None, None, tf.int32, alg="philox")
    bits = tf.reshape(tf.reshape(tf.bitcast(pairs, tf.uint16), [-1])[:size], tf.shape(x))
    threshold = min(round(rate * 2**16), 2**16 - 1)
    mask = tf.cast(bits >= threshold, x.dtype) * tf.cast(1 / (1 - threshold / 2**16), x.dtype)
    return x * mask


def layer_seed(seed, layer):
    """Derives the seed of one layer's dropout, int32 [2], from the seed of the step."""
    return tf.cast(tf2.random.experimental.stateless_fold_in(to_uint32_seed(seed), layer, "philox"), tf.int32)


def classifier(
    x,
    phase,
    scope="class",
    reuse=None,
    internal_update=False,
    getter=None,
    width=1.0,
    dropout_rate=DROPOUT_RATE,
    seed=None,
    dtype=tf.float32,
    momentum=BATCH_NORM_MOMENTUM,
    num_classes=10,
):
    """Builds the guide's network of nine convolutions; the first six arguments alone do what the guide's did.

    Args:
      x: images [N, H, W, C], float, in [-1, 1].
      phase: True to train (batch statistics, dropout), False to test.
      scope: variable scope of the network.
      reuse: True to build over existing variables.
      internal_update: see `batch_norm`.
      getter: custom getter of `tf.get_variable`, such as `ema.ema_getter(ema)`.
      width: factor of the number of channels of every convolution, which is at least 1.
      dropout_rate: in [0, 1).
      seed: of dropout: None, or int32 [2] (see `dropout`).
      dtype: precision of the convolutions, tf.float32 or tf.bfloat16.
      momentum: of the moving statistics of batch norm.
      num_classes: K.

    Returns:
      Logits [N, K] float32.

    Raises:
      TypeError: phase is not a Python bool.
    """
    if not isinstance(phase, bool):
        raise TypeError(f"phase must be True or False, not {phase!r}: build a network for each")
    with tf.variable_scope(scope, reuse=reuse, custom_getter=getter):
        x = tf.cast(x, dtype)
        for block, (block_name, channels) in enumerate(BLOCKS):
            channels = max(1, round(channels * width))
            pooled = block < len(BLOCKS) - 1
            for layer in range(1, 4):
                with tf.variable_scope(f"{block_name}_{layer}"):
                    x = conv2d(x, channels, "conv")
                    x = batch_norm(x, phase, internal_update, momentum)
                    if pooled and layer == 3:  # before leaky ReLU, which is increasing: same result, less work
                        x = max_pool(x)
                    x = leaky_relu(x)
            if pooled:
                x = dropout(x, phase, dropout_rate, None if seed is None else layer_seed(seed, block))
        x = avg_pool(x)
        with tf.variable_scope("dense"):
            x = dense(x, num_classes, "dense")
            return batch_norm(x, phase, internal_update, momentum)


def cross_entropy(logits, labels):
    """Returns the mean cross-entropy in nats, scalar float32, of logits [N, K] float32 and labels [N] int64."""
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))


def count_correct(logits, labels):
    """Returns the number of correctly classified images, int64 scalar, for logits [N, K] and labels [N] int64."""
    return tf.math.count_nonzero(tf.equal(tf.argmax(logits, 1), labels))
