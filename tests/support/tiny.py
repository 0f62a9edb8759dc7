"""A tiny run in this process, stepped one by one: what the tests of averages and of training look into."""

import numpy as np
import tensorflow.compat.v1 as tf

import flags as command_line
import train
from data import Dataset, draw_synthetic

TINY = ["--dataset", "synthetic", "--width", "0.05", "--batch_size", "16", "--precision", "float32", "--seed", "3"]
STEPS = 12


class Trained:
    """A tiny run, stepped one by one, with what its variables held after each step."""

    def __init__(self, *argv, steps=STEPS, xla=False):
        self.flags = command_line.parse([*TINY, *argv])
        images = draw_synthetic(64, seed=5)
        dataset = Dataset(images, draw_synthetic(30, seed=6), "drawn")
        with tf.Graph().as_default() as self.tf_graph:
            self.graph = train.build(self.flags, dataset, "float32", xla)
            self.session = tf.Session()
            self.session.run(self.graph.initialize, self.graph.feeds)
            self.batch_stats = [v for v in tf.global_variables("class") if v.op.name.endswith(("/mean", "/var"))]
        self.history = [self.read(self.graph.var_class + self.batch_stats)]
        for step in range(steps):
            if step % 4 == 0:
                self.session.run(self.graph.shuffle)
            self.session.run(self.graph.train, {self.graph.until: step + 1})
            self.history.append(self.read(self.graph.var_class + self.batch_stats))

    def read(self, variables):
        return {v.op.name: value for v, value in zip(variables, self.session.run(variables), strict=True)}

    def write(self, values):
        for variable in self.graph.var_class + self.batch_stats:
            if variable.op.name in values:
                variable.load(values[variable.op.name], self.session)

    def shadows(self, average, *, stats=False):
        of, variables = (average.batch_stats, self.batch_stats) if stats else (average.weights, self.graph.var_class)
        values = self.session.run([of.average(variable) for variable in variables])
        return {variable.op.name: value for variable, value in zip(variables, values, strict=True)}

    def recurrence(self, name, decay_of, every=1):
        """shadow = d_t shadow + (1 - d_t) weights, in float64, over the weights after every `every` steps."""
        shadow = self.history[0][name].astype(np.float64)
        for t, weights in enumerate(self.history[every::every], start=1):
            shadow = decay_of(t) * shadow + (1 - decay_of(t)) * weights[name].astype(np.float64)
        return shadow

    def check(self, average, decay_of, every=1, *, stats=False):
        for name, shadow in self.shadows(average, stats=stats).items():
            expected = self.recurrence(name, decay_of, every)
            assert shadow.dtype == np.float32
            assert np.abs(shadow - expected).max() <= 1e-5 * np.abs(expected).max() + 1e-7, name
