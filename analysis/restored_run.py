"""Restores a run: one network that can become any of the run's classifiers."""

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
    """A graph built by `build()`, with a session and variables that can be loaded with any values."""

    def __init__(self, build):
        with tf.Graph().as_default() as self.graph:
            tf.set_random_seed(0)  # TF_DETERMINISTIC_OPS=1 demands a seed
            self.built = build()
            self.variables = tf.global_variables()
            self.session = device.session()
            initializers = [tf.global_variables_initializer(), tf.local_variables_initializer()]
            self.session.run(initializers, data.device_feeds())

    def load(self, values):
        """Assigns arrays to variables by name; variables that `values` lacks are unchanged."""
        variables = [variable for variable in self.variables if variable.op.name in values]
        feeds = {variable.initializer.inputs[1]: values[variable.op.name] for variable in variables}
        self.session.run([variable.initializer for variable in variables], feeds)

    def values(self):
        """Returns {variable name: array}."""
        return self.session.run({variable.op.name: variable for variable in self.variables})


class RestoredRun:
    """The newest valid checkpoint of a run; data_dir: TFDS directory, if the data has moved.

    `use` loads one of the run's classifiers; `logits` and `accuracies` apply the classifier loaded last.
    """

    def __init__(self, run_dir, data_dir=None):
        self.path = require_single_run(run_dir)
        self.config = load_config(run_dir)
        self.flags, self.precision = load_flags(run_dir, self.config), load_precision(run_dir, self.config)
        self.flags.data_dir = data_dir or self.flags.data_dir
        self.saved, self.state = checkpoints.read(self.path)
        self.last_row = (self.state["rows"] or [{}])[-1]  # as in metrics.jsonl
        # "raw" and "recomputed" need only the checkpoint and the data, so every run has them.
        self.policies = list(dict.fromkeys([*self.flags.ema_batch_stats, "raw", "recomputed"]))
        self.labels = labels_of(self.flags.ema_decay, self.policies)
        self.class_names = data.DATASETS[self.flags.dataset].class_names
        self.image_shape = data.DATASETS[self.flags.dataset].image_shape
        options = {"width": self.flags.width, "dtype": self.precision, "num_classes": len(self.class_names)}
        self.classifier = functools.partial(classifier, **options)
        device.choose("auto")
        self.network = Network(self._build)
        self.images, self.outputs = self.network.built
        for variable in self.network.variables:
            if np.shape(self.saved.get(variable.op.name)) != tuple(variable.shape.as_list()):
                raise checkpoints.mismatch_error(self.path)

    def _build(self):
        """Builds (uint8 images [N, H, W, C], logits [N, K] float32), for any N."""
        images = tf.placeholder(tf.uint8, [None, *self.image_shape], name="images")
        count = tf.shape(images)[0]
        # TensorFlow's convolution fails on an empty batch: add a black image and cut off its logits.
        padded = tf.pad(images, [[0, tf.maximum(0, 1 - count)], [0, 0], [0, 0], [0, 0]])
        x = data.to_float(tf.ensure_shape(padded, images.shape))
        return images, self.classifier(x, phase=False)[:count]

    def _build_recompute(self):
        """Builds the operation that recomputes the batch statistics over the first training images."""
        self.classifier(tf.zeros([1, *self.image_shape]), phase=False)  # makes the variables outside the loop
        images = data.put_on_device(self.dataset.train.images[: data.RECOMPUTED_IMAGES], "first_images")
        return ema.recompute(self.classifier, *data.first_images(images, data.EVAL_BATCH_SIZE))

    @functools.cached_property
    def recompute_network(self):
        return Network(self._build_recompute)

    @functools.cached_property
    def dataset(self):
        return data.load_for_evaluation(self.flags)

    def describe_step(self, step=None):
        """Returns "after step 16, epoch 2 of 2" for a step, by default the checkpoint's."""
        step, epochs = step or self.state["step"], self.flags.epochs
        if not self.last_row:
            return f"after step {step}, before the first evaluation (unfinished)"
        epoch = step * self.last_row["epoch"] / self.last_row["step"]
        unfinished = " (unfinished)" if epoch < epochs else ""
        return f"after step {step}, epoch {epoch:.4g} of {epochs}{unfinished}"

    def choose(self, weights="ema", decay=None, batch_stats=None):
        """Returns (Label, reason) of a classifier, by default that of `labels.choose`; UserError without."""
        if weights == "raw" and (decay or batch_stats == "averaged"):
            raise UserError("--weights raw does not work with --decay or --batch_stats averaged", 2)
        flags = {"--decay": (decay, self.flags.ema_decay), "--batch_stats": (batch_stats, self.policies)}
        for flag, (value, choices) in flags.items():
            if value and value not in choices:
                raise UserError(f"{flag} {value} is not in {self.path}: choose from {', '.join(choices)}", 2)
        text, reason = choose(primary(map(str, self.labels)), [self.last_row.get("validation", {})])
        best = Label.parse(text)
        default = best.baseline if weights == "raw" else best
        label = Label(weights, decay or default.decay, batch_stats or default.statistics)
        return label, reason if label == best else f"chosen by flags instead of {best.display_name}"

    def values(self, label):
        """Returns {variable name: array} of a classifier; recomputed statistics are still the raw network's."""
        values = {}
        if label.weights == "ema":
            index = self.flags.ema_decay.index(label.decay)
            shadow = ema.shadow_suffix(ema.decay_suffix(label.decay, index))
        for variable in self.network.variables:
            name = variable.op.name
            averaged = label.weights == "ema" and (variable.trainable or label.statistics == "averaged")
            values[name] = self.saved.get(f"{name}/{shadow}" if averaged else name)
            if values[name] is None:
                raise checkpoints.mismatch_error(self.path)
        return values

    def use(self, label):
        """Loads a classifier into the network."""
        self.network.load(self.values(label))
        if label.recomputed:
            self.recompute()

    def recompute(self):
        """Recomputes the batch statistics of the weights in the network, over training images."""
        self.recompute_network.load(self.network.values())
        self.recompute_network.session.run(self.recompute_network.built)
        self.network.load(self.recompute_network.values())

    def logits(self, images):
        """Returns [N, K] float32 for images [N, H, W, C] uint8."""
        size = max(1, min(data.EVAL_BATCH_SIZE, len(images)))
        parts = []
        for start in range(0, len(images) or 1, size):
            batch = images[start : start + size]
            # As in training, the last batch is filled up by repeating its last image.
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            parts.append(self.network.session.run(self.outputs, {self.images: filled})[: len(batch)])
        logits = np.concatenate(parts)
        if not np.isfinite(logits).all():
            raise UserError(f"the logits of {self.path} are not finite: train again with a lower --learning_rate")
        return logits

    def test_logits(self, label):
        """Returns [N, K] float32 of a classifier on the test set."""
        self.use(label)
        return self.logits(self.dataset.test.images)

    def accuracies(self):
        """Returns {"test": accuracy}, and "validation" if the run has validation images."""
        accuracies = {}
        for name, split in self.dataset.evaluated.items():
            accuracies[name] = float(np.mean(self.logits(split.images).argmax(1) == split.labels))
        return accuracies
