"""Contestant: this project, through the graph that train.py builds and with the flags of train.py.

--no_ema leaves the averages out, and nothing else.
"""

import contextlib
import os

import contestant
import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

import data
import train
from training import console, device, settings


def dataset(flags):
    splits = (data.Split(*contestant.draw(size, seed)) for seed, size in enumerate((flags.train_size, flags.test_size)))
    return data.Dataset(*splits, "random")


class Ours:
    """The graph of train.py in a session, stepped as training.trainer does it."""

    def __init__(self, flags):
        if flags.no_ema:
            flags.ema_decay = []
        chosen = device.choose(flags.device)
        self.device = chosen.kind
        self.settings = settings.resolve(flags, chosen, flags.train_size)
        self.graph = train.build(self.settings, dataset(flags))
        self.session = device.session()
        self.session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], data.resident_feeds())
        self.step = 0
        self.about = {
            "device": chosen.description,
            "precision": self.settings.precision.name,
            "xla": self.settings.xla,
            "steps_per_run": self.settings.steps_per_run,
            "epoch_steps": self.settings.epoch_steps,
            "parameters": console.parameters(self.graph.var_class),
            "tensorflow": tf.__version__,
        }

    def run(self, steps, steps_per_run=None):
        end, loop, epoch_steps = self.step + steps, self.graph.loop, self.settings.epoch_steps
        while self.step < end:
            if self.step % epoch_steps == 0:
                self.session.run(self.graph.shuffle)
            boundary = (self.step // epoch_steps + 1) * epoch_steps
            until = min(self.step + (steps_per_run or self.settings.steps_per_run), boundary, end)
            self.step = int(self.session.run(loop.train, {loop.until: until}).step)

    def evaluate(self):
        for tested in self.graph.tested.values():
            np.argmax(self.session.run(tested.logits)["test"], axis=1)

    def device_bytes(self):
        if self.device == "cpu":
            return None
        with contextlib.suppress(Exception):  # a statistic that not every allocator keeps: it is no reason to end
            return tf2.config.experimental.get_memory_info("GPU:0")["peak"]


if __name__ == "__main__":
    tf.disable_eager_execution()
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # as the session has it, for what device_bytes makes beside it
    with contestant.skipping():
        ours = Ours(contestant.parse("no_ema"))
    ours.evaluate()  # warms up too
    contestant.serve(ours.about, ours.run, ours.device_bytes, evaluate=ours.evaluate)
