"""Implementation: the same network in the usual style of TF 1.x code, which is also the guide's.

Every step feeds a NumPy batch. Batch norm uses tf.nn.moments, max pool follows leaky ReLU, labels are one-hot, and one
tf.group holds the optimizer's step and the average. Precision is float32, threads are TensorFlow's default.
"""

import numpy as np
import tensorflow.compat.v1 as tf
import worker

import model
from training import device
from training.log import parameters


def batch_norm(x):
    """Computes model.batch_norm in the training phase without the fused kernel."""
    channels = x.shape[-1]
    gamma = tf.get_variable("gamma", [channels], initializer=tf.ones_initializer())
    beta = tf.get_variable("beta", [channels], initializer=tf.zeros_initializer())
    moving_mean = tf.get_variable("mean", [channels], initializer=tf.zeros_initializer(), trainable=False)
    moving_var = tf.get_variable("var", [channels], initializer=tf.ones_initializer(), trainable=False)
    mean, var = tf.nn.moments(x, list(range(x.shape.rank - 1)))
    momentum = model.BATCH_NORM_MOMENTUM
    for moving, batch in ((moving_mean, mean), (moving_var, var)):
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, moving.assign(momentum * moving + (1 - momentum) * batch))
    return tf.nn.batch_normalization(x, mean, var, beta, gamma, model.BATCH_NORM_EPSILON)


def classifier(x, width, dropout_rate):
    """Computes model.classifier in the training phase: images [N, 32, 32, 3] float32 to logits [N, 10]."""
    for block, (block_name, channels) in enumerate(model.BLOCKS):
        for layer in range(1, 4):
            with tf.variable_scope(f"{block_name}_{layer}"):
                x = model.leaky_relu(batch_norm(model.conv2d(x, max(1, round(channels * width)), "conv")))
        if block < len(model.BLOCKS) - 1:
            x = tf.nn.dropout(model.max_pool(x), rate=dropout_rate)
    with tf.variable_scope("dense"):
        return batch_norm(model.dense(model.avg_pool(x), worker.CLASSES, "dense"))


def main(flags):
    chosen = device.choose(flags.device)
    pixels, classes = worker.draw(flags.train_size)
    images, labels = pixels / np.float32(127.5) - 1, np.eye(worker.CLASSES, dtype=np.float32)[classes]
    x = tf.placeholder(tf.float32, [None, *worker.IMAGE_SHAPE])
    y = tf.placeholder(tf.float32, [None, worker.CLASSES])
    logits = classifier(x, flags.width, flags.dropout)
    loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=y, logits=logits))
    var_list = tf.trainable_variables()
    with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
        minimize = tf.train.AdamOptimizer(flags.learning_rate, flags.adam_beta1).minimize(loss)
    average = tf.train.ExponentialMovingAverage(float(flags.ema_decay[0])).apply(var_list)
    train_op = tf.group(minimize, average)  # the two race, as in the guide
    session = tf.Session(config=tf.ConfigProto(gpu_options=tf.GPUOptions(allow_growth=True)))
    session.run(tf.global_variables_initializer())

    def run(steps):
        for _ in range(steps):
            indices = np.random.randint(0, len(labels), flags.batch_size)
            session.run([train_op, loss], {x: images[indices], y: labels[indices]})

    about = {"device": chosen.description, "precision": "float32", "tensorflow": tf.__version__}
    worker.serve(about | {"parameters": parameters(var_list)}, run)


if __name__ == "__main__":
    tf.disable_eager_execution()
    main(worker.parse())
