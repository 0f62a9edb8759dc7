"""Contestant: the convolutions of one training step of this network, and nothing else.

No step can be faster while it uses these kernels. Forward, weight gradient and input gradient of every layer at this
batch and precision, over random tensors that stay on the device; the first layer needs no input gradient.
"""

import tensorflow.compat.v1 as tf
import worker

import data
import model
from training import device


def layers(width):
    """The shapes of each convolution of the network, first to last: of an image, of the weights, of the output."""
    with tf.Graph().as_default() as graph:
        model.classifier(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False, width=width)
        found = [op for op in graph.get_operations() if op.type == "Conv2D"]
    return [(op.inputs[0].shape[1:], op.inputs[1].shape, op.outputs[0].shape[1:]) for op in found]


def convolutions(width, batch_size, dtype):
    """All convolutions of a step; an operation that runs when they are done."""
    outputs = []
    for index, (image, kernel, output) in enumerate(layers(width)):
        shapes = [batch_size, *image], kernel, [batch_size, *output]
        x, weights, gradient = (tf.Variable(tf.random.normal(shape, dtype=dtype)) for shape in shapes)
        outputs.append(tf.nn.conv2d(x, weights, 1, "SAME"))
        outputs.append(tf.nn.conv2d_backprop_filter(x, weights.shape, gradient, [1, 1, 1, 1], "SAME"))
        if index > 0:
            outputs.append(tf.nn.conv2d_backprop_input(x.shape, weights, gradient, [1, 1, 1, 1], "SAME"))
    # What nothing reads would be pruned: one element of each is read, and stays on the device.
    return tf.add_n([output[0, 0, 0, 0] for output in outputs]).op


def main(flags):
    chosen = device.choose(flags.device)
    step = convolutions(flags.width, flags.batch_size, tf.as_dtype(flags.precision))
    session = device.session()
    session.run(tf.global_variables_initializer())
    about = {"device": chosen.description, "precision": flags.precision, "tensorflow": tf.__version__}
    worker.serve(about, lambda steps: [session.run(step) for _ in range(steps)])


if __name__ == "__main__":
    tf.disable_eager_execution()
    main(worker.parse())
