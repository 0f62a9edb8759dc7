"""A tiny run in this process, stepped one by one: what the tests of averages and of training look into."""

import numpy as np
import tensorflow.compat.v1 as tf

import data
import train
from support.commands import TINY_RUN
from training import device, flags, places, settings, synthetic

STEPS = 12
EPOCH_STEPS = 4


def split(size, seed):
    """A data.Split of synthetic images."""
    return data.Split(*synthetic.draw(size, seed))


def dataset():
    """What a SteppedRun is trained and tested on."""
    return data.Dataset(split(64, seed=5), split(30, seed=6), "drawn", synthetic.CLASS_NAMES)


def resolved(*argv):
    """The settings of a tiny run with these flags over 64 images."""
    parsed = flags.parse([*TINY_RUN, "--batch_size", "16", "--seed", "3", *argv])
    return settings.resolve(parsed, places.OneDevice(device.choose("cpu")), None, 64, network=None)


def initialise(session):
    """Initialises every variable of the default graph, the resident data included."""
    session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], data.device_feeds())


class SteppedRun:
    """A tiny run, stepped one by one, with what its variables held after each step."""

    def __init__(self, *argv, steps=STEPS, xla=False):
        self.settings = resolved(*argv, "--xla", "on" if xla else "off")
        with tf.Graph().as_default() as self.tf_graph:
            self.graph = train.build(self.settings, dataset())
            self.session = tf.Session()
            initialise(self.session)
            self.saver = tf.train.Saver()
            self.batch_stats = [v for v in tf.global_variables("class") if v.op.name.endswith(("/mean", "/var"))]
        self.history = [self.read(self.graph.var_class + self.batch_stats)]
        for step in range(steps):
            self.train(step + 1)
            self.history.append(self.read(self.graph.var_class + self.batch_stats))

    def train(self, until):
        """Trains up to a step of the same epoch, in one session.run; returns the training.loop.Progress."""
        if self.step() % EPOCH_STEPS == 0:
            self.session.run(self.graph.shuffle)
        return self.session.run(self.graph.loop.train, {self.graph.loop.until: until})

    def step(self):
        return int(self.session.run(self.graph.step))

    def read(self, variables):
        return {v.op.name: value for v, value in zip(variables, self.session.run(variables), strict=True)}

    def everything(self):
        """Every variable that a checkpoint holds: name to array."""
        with self.tf_graph.as_default():
            return self.read(tf.global_variables())

    def write(self, values):
        for variable in self.graph.var_class + self.batch_stats:
            if variable.op.name in values:
                variable.load(values[variable.op.name], self.session)

    def logits(self, label):
        """Test logits of a classifier, its batch statistics recomputed first where that is its policy."""
        tested = self.graph.test_classifiers[label]
        if tested.recompute is not None:
            self.session.run(tested.recompute)
        return self.session.run(tested.logits["test"])

    def shadows(self, average, *, stats=False):
        of, variables = (average.stats_ema, self.batch_stats) if stats else (average.weights_ema, self.graph.var_class)
        values = self.session.run([of.average(variable) for variable in variables])
        return {variable.op.name: value for variable, value in zip(variables, values, strict=True)}

    def primary(self):
        """The primary Average."""
        return next(iter(self.graph.averages.decays.values()))

    def recurrence(self, name, decay_of):
        """shadow = d_t shadow + (1 - d_t) weights, in float64, over the weights after every step."""
        shadow = self.history[0][name].astype(np.float64)
        for t, weights in enumerate(self.history[1:], start=1):
            shadow = decay_of(t) * shadow + (1 - decay_of(t)) * weights[name].astype(np.float64)
        return shadow

    def check(self, average, decay_of, *, stats=False):
        for name, shadow in self.shadows(average, stats=stats).items():
            expected = self.recurrence(name, decay_of)
            assert shadow.dtype == np.float32
            assert np.abs(shadow - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7, name
