"""Implementation: only the convolutions of a training step, which bound the speed of a step with these kernels.

Runs the forward pass, weight gradient and input gradient of every layer over random tensors on the device.
"""

import tensorflow.compat.v1 as tf
import worker

import model
from training import device


def layer_shapes(width):
    """Returns the shapes (image, weights, output) of each convolution of the network, without the batch axis."""
    with tf.Graph().as_default() as graph:
        model.classifier(tf.zeros([1, *worker.IMAGE_SHAPE]), phase=False, width=width)
        convolutions = [op for op in graph.get_operations() if op.type == "Conv2D"]
    return [(op.inputs[0].shape[1:], op.inputs[1].shape, op.outputs[0].shape[1:]) for op in convolutions]


def build(width, batch_size, dtype):
    """Returns an operation that runs all convolutions of a step."""
    outputs = []
    for index, (image, kernel, output) in enumerate(layer_shapes(width)):
        shapes = [batch_size, *image], kernel, [batch_size, *output]
        x, weights, gradient = (tf.Variable(tf.random.normal(shape, dtype=dtype)) for shape in shapes)
        outputs.append(tf.nn.conv2d(x, weights, 1, "SAME"))
        outputs.append(tf.nn.conv2d_backprop_filter(x, weights.shape, gradient, [1, 1, 1, 1], "SAME"))
        if index > 0:  # nothing needs the gradient of the images
            outputs.append(tf.nn.conv2d_backprop_input(x.shape, weights, gradient, [1, 1, 1, 1], "SAME"))
    # Read one element of each output, because the graph optimiser removes unread operations.
    return tf.add_n([output[0, 0, 0, 0] for output in outputs]).op


def main(flags):
    chosen = device.choose(flags.device)
    step = build(flags.width, flags.batch_size, tf.as_dtype(flags.precision))
    session = device.session()
    session.run(tf.global_variables_initializer())
    about = {"device": chosen.description, "precision": flags.precision, "tensorflow": tf.__version__}
    worker.serve(about, lambda steps: [session.run(step) for _ in range(steps)])


if __name__ == "__main__":
    tf.disable_eager_execution()
    main(worker.parse())
