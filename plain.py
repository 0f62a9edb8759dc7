"""One classifier alone, in a graph of its own: uint8 images in; probabilities, class ids and class names out.

Its variables have the names of the raw ones and hold whatever the classifier reads: weights or their shadows, and
the batch statistics of its policy.
"""

import tensorflow.compat.v1 as tf

import data
import devices
import flags as command_line
import runs
from model import classifier
from quiet import captured_stderr
from trained import assign

BATCH = 500  # images: what fits every machine, and what training evaluates with


class Plain:
    """The classifier that a run calls `label`, restored from its newest checkpoint.

    Recomputed batch statistics are in no checkpoint: `load_stats` has to bring them.

    Args:
      run: trained.Trained or report.Run: its path and flags count.
      label: "raw", "raw/recomputed" or "ema/<decay>/<policy>".
      primary: the text of the primary decay.
    """

    def __init__(self, run, label, primary):
        with tf.Graph().as_default():
            self.images = tf.placeholder(tf.uint8, [None, *data.IMAGE_SHAPE], name="images")
            dtype = tf.as_dtype(command_line.load_precision(run.path))
            count = tf.shape(self.images)[0]
            # TensorFlow's convolution fails on an empty batch: it gets one black image, whose logits are cut off.
            padded = tf.pad(self.images, [[0, tf.maximum(0, 1 - count)], [0, 0], [0, 0], [0, 0]])
            x = data.to_float(tf.ensure_shape(padded, self.images.shape))
            logits = classifier(x, phase=False, width=run.flags.width, dtype=dtype)[:count]
            ids = tf.argmax(logits, 1)
            self.outputs = {
                "probabilities": tf.nn.softmax(logits),
                "class_ids": ids,
                "class_names": tf.gather(tf.constant(data.CLASSES), ids),
            }
            self.variables = tf.global_variables()
            self.saver = tf.train.Saver(self.variables)
            self.session = devices.session()
            with captured_stderr():
                self.session.run(tf.global_variables_initializer())
            runs.restore_checkpoint(run.path, tf.train.Saver(saved_names(self.variables, label, primary)), self.session)

    def load_stats(self, values):
        """Sets the batch statistics to `values`, variable name to array."""
        assign(self.session, [variable for variable in self.variables if variable.op.name in values], values)

    def probabilities(self, images):
        """[N, 10] float32 for images [N, 32, 32, 3] uint8, N up to BATCH."""
        return self.session.run(self.outputs["probabilities"], {self.images: images})

    def weights(self):
        """Variable name to array."""
        return self.session.run({variable.op.name: variable for variable in self.variables})

    def save(self, directory):
        """Writes a SavedModel with the one signature serving_default."""
        with self.session.graph.as_default(), captured_stderr():  # v1's own builder calls what v2 deprecates
            signature = tf.saved_model.predict_signature_def({"images": self.images}, self.outputs)
            builder = tf.saved_model.Builder(str(directory))
            builder.add_meta_graph_and_variables(
                self.session,
                [tf.saved_model.tag_constants.SERVING],
                {tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature},
                saver=self.saver,
                strip_default_attrs=True,
            )
            builder.save()


def saved_names(variables, label, primary):
    """What a checkpoint calls the values that classifier `label` reads: name to variable, for tf.train.Saver."""
    if label.startswith("raw"):
        return {variable.op.name: variable for variable in variables}
    _, decay, policy = label.split("/")
    suffix = "" if decay == primary else f"_{decay}"
    ema = tf.train.ExponentialMovingAverage(0.0, name=f"ExponentialMovingAverage{suffix}")
    return {
        ema.average_name(variable) if variable.trainable or policy == "averaged" else variable.op.name: variable
        for variable in variables
    }
