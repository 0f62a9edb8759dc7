"""Contestant: the convolutions of one training step of this network, and nothing else.

No step can be faster while it uses these kernels. Forward, weight gradient and input gradient of all nine layers at
this batch and precision, over random tensors that stay on the device; the first layer needs no input gradient. Asked
for `matrix N` it multiplies square matrices instead: the rate that no kernel exceeds.
"""

import contestant
import network
import tensorflow.compat.v1 as tf

from training import device


def resident(shape, dtype):
    """A variable of random numbers, on the device."""
    return tf.get_variable(f"resident_{len(tf.global_variables())}", initializer=tf.random.normal(shape, dtype=dtype))


def read(outputs):
    """An operation that runs when `outputs` are there.

    One that nothing reads would be pruned. One element of each is read, and stays on the device.
    """
    return tf.add_n([output[(0,) * output.shape.rank] for output in outputs]).op


def convolutions(width, batch_size, dtype):
    """All convolutions of a step; an operation that runs when they are done."""
    outputs = []
    for index, (height, before, channels) in enumerate(network.layers(width)):
        x = resident([batch_size, height, height, before], dtype)
        weights = resident([3, 3, before, channels], dtype)
        gradient = resident([batch_size, height, height, channels], dtype)
        settings = {"strides": [1, 1, 1, 1], "padding": "SAME"}
        outputs += [
            tf.nn.conv2d(x, weights, **settings),
            tf.nn.conv2d_backprop_filter(x, weights.shape, gradient, **settings),
        ]
        if index > 0:
            outputs.append(tf.nn.conv2d_backprop_input(x.shape, weights, gradient, **settings))
    return read(outputs)


def product(size, dtype):
    """The product of two square matrices; an operation that runs when it is done."""
    return read([tf.matmul(resident([size, size], dtype), resident([size, size], dtype))])


class Ceiling:
    def __init__(self, flags):
        chosen = device.choose(flags.device)
        self.precision = device.choose_precision(flags.precision, chosen, network.channels(flags.width)[-1]).name
        self.width, self.session = flags.width, None
        self.batch(flags.batch_size)
        weights = sum(9 * before * channels for _, before, channels in network.layers(flags.width))
        self.about = {
            "device": chosen.description,
            "precision": self.precision,
            "convolution_weights": weights,
            "tensorflow": tf.__version__,
        }

    def batch(self, size):
        self._prepare(lambda dtype: convolutions(self.width, size, dtype))

    def matrix(self, size):
        self._prepare(lambda dtype: product(size, dtype))

    def _prepare(self, build):
        """In a graph and session of its own, whose memory the next one takes."""
        if self.session:
            self.session.close()
        with tf.Graph().as_default():
            self.step = build(tf.as_dtype(self.precision))
            self.session = device.session()
            self.session.run(tf.global_variables_initializer())
        self.run(contestant.WARM_UP_STEPS)

    def run(self, steps):
        for _ in range(steps):
            self.session.run(self.step)


if __name__ == "__main__":
    tf.disable_eager_execution()
    with contestant.skipping():
        ceiling = Ceiling(contestant.parse())
    contestant.serve(ceiling.about, ceiling.run, batch=ceiling.batch, matrix=ceiling.matrix)
