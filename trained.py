"""A finished run, brought back to life from its directory: what every command of evaluate.py starts from."""

import tensorflow.compat.v1 as tf

import devices
import flags as command_line
import runs
import train
from quiet import captured_stderr


class Trained:
    """A run directory brought back to life: its graph with every batch-statistics policy, its last checkpoint restored.

    A context manager; `logits(label)` gives the test logits [N, 10] of a classifier.
    """

    def __init__(self, run_dir, data_dir=None):
        self.config = command_line.load_config(run_dir)
        self.flags = command_line.load_flags(run_dir)
        self.path = runs.check_directory(run_dir, resume=True)
        self.flags.ema_batch_stats = list(dict.fromkeys([*self.flags.ema_batch_stats, "raw", "recomputed"]))
        devices.choose("auto")
        data_dir = data_dir or self.flags.data_dir
        self.flags.data_dir = data_dir
        self.dataset = train.training_data(self.flags)
        with tf.Graph().as_default():
            self.graph = train.build(self.flags, self.dataset, command_line.load_precision(run_dir))
            self.session = devices.session()
            with captured_stderr():
                self.session.run(self.graph.initialize, self.graph.feeds)
            self.state = runs.restore_checkpoint(self.path, self.graph.saver, self.session)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session.close()

    def logits(self, label):
        if label in self.graph.recompute:
            self.session.run(self.graph.recompute[label])
        return self.session.run(self.graph.logits[label])

    def recomputed_stats(self, label):
        """The batch statistics that `logits(label)` recomputed: variable name of the raw ones to array."""
        prefix = f"recomputed/{'raw' if label == 'raw/recomputed' else label}/"
        local = self.session.graph.get_collection(tf.GraphKeys.LOCAL_VARIABLES)
        return self.session.run(
            {v.op.name.removeprefix(prefix): v for v in local if v.op.name.startswith(f"{prefix}class/")}
        )

    def load(self, weights):
        """Puts weights, variable name to array, in the place of the raw ones."""
        assign(self.session, self.graph.var_class, weights)


def assign(session, variables, values):
    """Sets each of `variables` to its array in `values` (by variable name), in one session.run."""
    feeds = {variable.initializer.inputs[1]: values[variable.op.name] for variable in variables}
    session.run([variable.initializer for variable in variables], feeds)
