"""A finished run brought back to life: one network whose variables take the values of any of its classifiers."""

import functools

import numpy as np
import tensorflow.compat.v1 as tf

import data
import ema
from analysis.run_files import require_single_run
from model import classifier
from training import checkpoints, device
from training.cli import UserError
from training.flags import load_config, load_flags, load_precision
from training.labels import Label, choose, primary
from training.settings import labels_of


class Network:
    """What the function `build` builds in a graph of its own, with a session, and variables that take any values."""

    def __init__(self, build):
        with tf.Graph().as_default() as self.graph:
            tf.set_random_seed(0)  # the values are replaced, but TF_DETERMINISTIC_OPS=1 demands one
            self.built = build()
            self.variables = tf.global_variables()
            self.session = device.session()
            initializers = [tf.global_variables_initializer(), tf.local_variables_initializer()]
            self.session.run(initializers, data.device_feeds())

    def load(self, values):
        """Gives variables the arrays in `values`, by variable name, in one session.run."""
        chosen = [variable for variable in self.variables if variable.op.name in values]
        feeds = {variable.initializer.inputs[1]: values[variable.op.name] for variable in chosen}
        self.session.run([variable.initializer for variable in chosen], feeds)

    def values(self):
        """Variable name to array."""
        return self.session.run({variable.op.name: variable for variable in self.variables})


class RestoredRun:
    """The newest whole checkpoint of a run, in a graph that is a test classifier and nothing else.

    `use` makes the network one of the run's classifiers; `logits` and `accuracies` are of what it is now. `data_dir` is
    the TFDS directory, if the data has moved since.

    Raises:
      UserError: there is no such run, or it has no whole checkpoint.
    """

    def __init__(self, run_dir, data_dir=None):
        self.path = require_single_run(run_dir)
        self.config, self.flags, self.precision = load_config(run_dir), load_flags(run_dir), load_precision(run_dir)
        self.flags.data_dir = data_dir or self.flags.data_dir
        self.saved, self.state = checkpoints.read(self.path)
        self.last = (self.state["rows"] or [{}])[-1]  # evaluation, as in metrics.jsonl
        # Beside those that it was trained with, these need nothing but its checkpoint and its data.
        policies = dict.fromkeys([*self.flags.ema_batch_stats, "raw", "recomputed"])
        self.labels = labels_of(self.flags.ema_decay, list(policies))
        self.classifier = functools.partial(classifier, width=self.flags.width, dtype=tf.as_dtype(self.precision))
        device.choose("auto")
        self.network = Network(self._build)
        self.images, self.outputs = self.network.built
        for variable in self.network.variables:
            if np.shape(self.saved.get(variable.op.name)) != tuple(variable.shape.as_list()):
                raise checkpoints.mismatch_error(self.path)

    def _build(self):
        """(uint8 images [N, 32, 32, 3], logits [N, 10] float32), for any N."""
        images = tf.placeholder(tf.uint8, [None, *data.IMAGE_SHAPE], name="images")
        count = tf.shape(images)[0]
        # TensorFlow's convolution fails on an empty batch: it gets one black image, whose logits are cut off.
        padded = tf.pad(images, [[0, tf.maximum(0, 1 - count)], [0, 0], [0, 0], [0, 0]])
        x = data.to_float(tf.ensure_shape(padded, images.shape))
        return images, self.classifier(x, phase=False)[:count]

    @functools.cached_property
    def dataset(self):
        """The data.Dataset that the run is evaluated with."""
        return data.load_for_evaluation(self.flags)

    def after(self, step=None):
        """After which step and epoch, in words; those of the checkpoint where no step is given."""
        step, epochs = step or self.state["step"], self.flags.epochs
        if not self.last:
            return f"after step {step}, before the first evaluation (unfinished)"
        epoch = step * self.last["epoch"] / self.last["step"]
        return f"after step {step}, epoch {epoch:.4g} of {epochs}{' (unfinished)' if epoch < epochs else ''}"

    def choose(self, weights="ema", decay=None, policy=None):
        """The classifier that is asked for, what is left open as of the average that `labels.choose` chooses.

        Returns:
          (Label, why that one: a phrase).

        Raises:
          UserError: the run has no such classifier.
        """
        text, reason = choose(primary(map(str, self.labels)), [self.last.get("validation", {})])
        chosen = Label.parse(text)
        if weights == "raw" and (decay or policy == "averaged"):
            raise UserError("--weights raw has no averages: leave --decay and --batch_stats averaged out", 2)
        if weights == "raw":
            label = Label("raw", None, policy or chosen.baseline.statistics)
        else:
            label = Label("ema", decay or chosen.decay, policy or chosen.statistics)
        if label not in self.labels:
            flag, known = "--batch_stats", {one.statistics: None for one in self.labels}
            if label.decay and label.decay not in self.flags.ema_decay:
                flag, known = "--decay", self.flags.ema_decay
            raise UserError(f"{self.path} holds no {label.display_name}: choose {flag} from {', '.join(known)}", 2)
        return label, reason if label == chosen else f"asked for in the place of {chosen.display_name}"

    @functools.cached_property
    def _recomputing(self):
        """The network over the run's first training images, and the operation that recomputes its statistics."""

        def build():
            self.classifier(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False)  # makes the variables, outside the loop
            images = data.put_on_device(self.dataset.train.images[: data.RECOMPUTED_IMAGES], "first_images")
            return ema.recompute(self.classifier, *data.first_images(images, data.EVAL_BATCH_SIZE))

        return Network(build)

    def values(self, label):
        """What a classifier reads: variable name of the raw network to array; recomputed statistics excepted."""
        names = [variable.op.name for variable in self.network.variables]
        if label.weights == "raw":
            return {name: self.saved[name] for name in names}
        suffix = ema.shadow_suffix(ema.decay_suffix(label.decay, self.flags.ema_decay.index(label.decay)))
        trainable = {variable.op.name for variable in self.network.variables if variable.trainable}
        shadowed = names if label.statistics == "averaged" else trainable
        try:
            return {name: self.saved[f"{name}/{suffix}" if name in shadowed else name] for name in names}
        except KeyError:
            raise checkpoints.mismatch_error(self.path) from None

    def use(self, label):
        """Makes the network classifier `label`, its batch statistics recomputed where that is its policy."""
        self.network.load(self.values(label))
        if label.recomputed:
            self.recompute()

    def recompute(self):
        """Recomputes the batch statistics for the weights that the network has now, over training images."""
        recomputing = self._recomputing
        recomputing.load(self.network.values())
        recomputing.session.run(recomputing.built)
        self.network.load(recomputing.values())

    def logits(self, images):
        """[N, 10] float32 for images [N, 32, 32, 3] uint8, by the classifier that the network is now."""
        size = max(1, min(data.EVAL_BATCH_SIZE, len(images)))
        answers = [np.zeros([0, len(data.CLASSES)], np.float32)]
        for start in range(0, len(images), size):
            part = images[start : start + size]
            # As in training, the last batch is not short: it repeats its last image, and the surplus is cut off.
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            answers.append(self.network.session.run(self.outputs, {self.images: padded})[: len(part)])
        if not np.isfinite(logits := np.concatenate(answers)).all():
            raise UserError(f"the logits of {self.path} are not finite: start anew with a lower --learning_rate")
        return logits

    def test_logits(self, label):
        """[N, 10] float32 of classifier `label` on the test set."""
        self.use(label)
        return self.logits(self.dataset.test.images)

    def accuracies(self):
        """Accuracy of the classifier that the network is now: "test" and, where images are held out, "validation"."""
        return {
            name: float(np.mean(self.logits(split.images).argmax(1) == split.labels))
            for name, split in self.dataset.evaluated.items()
        }
