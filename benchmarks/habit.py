"""Contestant: the same network the way TF 1.x code is usually written, the guide's included.

A NumPy batch through feed_dict and one session.run per step, batch norm spelled out with tf.nn.moments, one-hot labels,
float32, TensorFlow's default threads, the optimiser's step and the average in one tf.group.
"""

from unittest import mock

import contestant
import numpy as np
import tensorflow.compat.v1 as tf

import model
from training import console, device


def batch_norm(x, phase, internal_update, momentum):
    """model.batch_norm without the fused kernel."""
    channels = x.shape[-1]
    gamma = tf.get_variable("gamma", [channels], initializer=tf.ones_initializer())
    beta = tf.get_variable("beta", [channels], initializer=tf.zeros_initializer())
    moving_mean = tf.get_variable("mean", [channels], initializer=tf.zeros_initializer(), trainable=False)
    moving_var = tf.get_variable("var", [channels], initializer=tf.ones_initializer(), trainable=False)
    mean, var = tf.nn.moments(x, list(range(x.shape.rank - 1)))
    for moving, batch in ((moving_mean, mean), (moving_var, var)):
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, moving.assign(momentum * moving + (1 - momentum) * batch))
    return tf.nn.batch_normalization(x, mean, var, beta, gamma, model.BATCH_NORM_EPSILON)


class Habit:
    def __init__(self, flags):
        chosen = device.choose(flags.device)
        self.batch_size = flags.batch_size
        images, labels = contestant.draw(flags.train_size, 0)
        self.images, self.labels = (images / np.float32(127.5) - 1), np.eye(10, dtype=np.float32)[labels]
        self.x = tf.placeholder(tf.float32, [None, 32, 32, 3])
        self.y = tf.placeholder(tf.float32, [None, 10])
        with mock.patch.object(model, "batch_norm", batch_norm):
            logits = model.classifier(self.x, phase=True, width=flags.width, dropout_rate=flags.dropout)
        self.loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits_v2(labels=self.y, logits=logits))
        var_class = tf.get_collection("trainable_variables", "class")
        with tf.control_dependencies(tf.get_collection("update_ops")):
            minimize = tf.train.AdamOptimizer(flags.learning_rate, flags.adam_beta1).minimize(self.loss)
        average = tf.train.ExponentialMovingAverage(float(flags.ema_decay[0])).apply(var_class)
        self.train_op = tf.group(minimize, average)  # as the guide did: the two race
        self.session = tf.Session(config=tf.ConfigProto(gpu_options=tf.GPUOptions(allow_growth=True)))
        self.session.run(tf.global_variables_initializer())
        self.batches = self._batches()
        self.about = {
            "device": chosen.description,
            "precision": "float32",
            "parameters": console.parameters(var_class),
            "tensorflow": tf.__version__,
        }

    def _batches(self):
        """Batches in a new order each epoch, for ever."""
        while True:
            order = np.random.permutation(len(self.labels))
            for start in range(0, len(order) - self.batch_size + 1, self.batch_size):
                indices = order[start : start + self.batch_size]
                yield {self.x: self.images[indices], self.y: self.labels[indices]}

    def run(self, steps):
        for _ in range(steps):
            self.session.run([self.train_op, self.loss], next(self.batches))


if __name__ == "__main__":
    tf.disable_eager_execution()
    with contestant.skipping():
        habit = Habit(contestant.parse())
    contestant.serve(habit.about, habit.run)
