"""A tiny run in this process, trained step by step, for the tests of averages and of training."""

import numpy as np
import tensorflow.compat.v1 as tf

import data
import train
from support.commands import TINY_RUN
from training import device, flags, settings, strategies, synthetic

STEPS = 12
EPOCH_STEPS = 4


def split(size, seed):
    """Returns a data.Split of synthetic images."""
    return data.Split(*synthetic.draw(size, seed))


def dataset():
    """Returns the data.Dataset of a SteppedRun: 64 training and 30 test images."""
    loaded = data.load("synthetic", train_size=1, test_size=1)
    return loaded._replace(train=split(64, seed=5), test=split(30, seed=6), source="drawn")


def resolve(*argv):
    """Returns the settings of a tiny run with these flags."""
    parsed = flags.parse([*TINY_RUN, "--batch_size", "16", "--seed", "3", *argv])
    return settings.resolve(parsed, strategies.SingleDevice(device.choose("cpu")), dataset(), network=None)


def initialise(session):
    """Initialises every variable of the default graph, including the data on the device."""
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], data.device_feeds())


class SteppedRun:
    """A tiny run, trained step by step; `history` holds its weights and batch statistics after each step."""

    def __init__(self, *argv, steps=STEPS, xla=False):
        self.settings = resolve(*argv, "--xla", "on" if xla else "off")
        with tf.Graph().as_default() as self.tf_graph:
            self.graph = train.build(self.settings, dataset())
            self.global_step = tf.train.get_global_step()
            self.session = tf.Session()
            initialise(self.session)
            self.saver = tf.train.Saver()
            self.batch_stats = [v for v in tf.global_variables("class") if v.op.name.endswith(("/mean", "/var"))]
        self.history = [self.read(self.graph.var_class + self.batch_stats)]
        for step in range(steps):
            self.train(step + 1)
            self.history.append(self.read(self.graph.var_class + self.batch_stats))

    def train(self, until):
        """Trains up to a step of the same epoch, in one session.run; returns the LoopResult."""
        if self.session.run(self.global_step) % EPOCH_STEPS == 0:
            self.session.run(self.graph.shuffle)
        return self.session.run(self.graph.loop.train, {self.graph.loop.until: until})

    def read(self, variables):
        return {v.op.name: value for v, value in zip(variables, self.session.run(variables), strict=True)}

    def everything(self):
        """Returns {name: array} of every variable in a checkpoint."""
        with self.tf_graph.as_default():
            return self.read(tf.global_variables())

    def write(self, values):
        for variable in self.graph.var_class + self.batch_stats:
            if variable.op.name in values:
                variable.load(values[variable.op.name], self.session)

    def logits(self, label):
        """Returns the test logits of a classifier, after recomputing its batch statistics if it has any."""
        test_classifier = self.graph.test_classifiers[label]
        if test_classifier.recompute is not None:
            self.session.run(test_classifier.recompute)
        return self.session.run(test_classifier.logits["test"])

    def shadows(self, average, *, stats=False):
        ema, variables = (average.stats_ema, self.batch_stats) if stats else (average.weights_ema, self.graph.var_class)
        values = self.session.run([ema.average(variable) for variable in variables])
        return {variable.op.name: value for variable, value in zip(variables, values, strict=True)}

    def primary(self):
        """Returns the primary ema.Average."""
        return next(iter(self.graph.averages.decays.values()))

    def recurrence(self, name, decay_of):
        """Returns shadow = d_t shadow + (1 - d_t) weights over all steps, in float64."""
        shadow = self.history[0][name].astype(np.float64)
        for t, weights in enumerate(self.history[1:], start=1):
            shadow = decay_of(t) * shadow + (1 - decay_of(t)) * weights[name].astype(np.float64)
        return shadow

    def check(self, average, decay_of, *, stats=False):
        """Compares all shadows of an average with `recurrence`."""
        for name, shadow in self.shadows(average, stats=stats).items():
            expected = self.recurrence(name, decay_of)
            assert shadow.dtype == np.float32
            assert np.abs(shadow - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7, name
