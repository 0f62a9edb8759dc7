"""Contestant: the convolutions of one training step of this network, and nothing else.

No step can be faster while it uses these kernels. Forward, weight gradient and input gradient of all nine layers at
this batch and precision, over random tensors that stay on the device; the first layer needs no input gradient.
"""

import contestant
import tensorflow.compat.v1 as tf

import data
import devices
import model


def layers(width):
    """(height, input channels, output channels) of each convolution, first to last."""
    height, _, before = data.IMAGE_SHAPE
    for _, channels in model.BLOCKS:
        channels = max(1, round(channels * width))
        for _ in range(3):
            yield height, before, channels
            before = channels
        height //= 2


def convolutions(width, batch_size, dtype):
    """All convolutions of a step; an operation that runs when they are done."""

    def resident(*shape):
        return tf.get_variable(
            f"resident_{len(tf.global_variables())}", initializer=tf.random.normal(shape, dtype=dtype)
        )

    samples = []
    for index, (height, before, channels) in enumerate(layers(width)):
        x = resident(batch_size, height, height, before)
        weights = resident(3, 3, before, channels)
        gradient = resident(batch_size, height, height, channels)
        settings = {"strides": [1, 1, 1, 1], "padding": "SAME"}
        outputs = [
            tf.nn.conv2d(x, weights, **settings),
            tf.nn.conv2d_backprop_filter(x, weights.shape, gradient, **settings),
        ]
        if index > 0:
            outputs.append(tf.nn.conv2d_backprop_input(x.shape, weights, gradient, **settings))
        # An output that nothing reads would be pruned. One element of each is read, and stays on the device.
        samples += [output[0, 0, 0, 0] for output in outputs]
    return tf.add_n(samples).op


class Ceiling:
    def __init__(self, flags):
        device = devices.choose(flags.device)
        precision = devices.choose_precision(flags.precision, device)
        self.step = convolutions(flags.width, flags.batch_size, tf.as_dtype(precision))
        self.session = devices.session()
        self.session.run(tf.global_variables_initializer())
        weights = sum(9 * before * channels for _, before, channels in layers(flags.width))
        self.about = {
            "device": device.description,
            "precision": precision,
            "convolution_weights": weights,
            "tensorflow": tf.__version__,
        }

    def run(self, steps):
        for _ in range(steps):
            self.session.run(self.step)


if __name__ == "__main__":
    tf.disable_eager_execution()
    ceiling = Ceiling(contestant.parse())
    contestant.serve(ceiling.about, ceiling.run)
