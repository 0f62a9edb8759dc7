"""Contestant: this project, through the graph that train.py builds and with the flags of train.py.

--no_ema leaves the averages out, and nothing else.
"""

import contestant
import numpy as np
import tensorflow.compat.v1 as tf

import data
import devices
import train


def dataset(flags):
    splits = (data.Split(*contestant.draw(size, seed)) for seed, size in enumerate((flags.train_size, flags.test_size)))
    return data.Dataset(*splits, "random")


class Ours:
    """The graph of train.py in a session, stepped as loop.py does it."""

    def __init__(self, flags):
        if flags.no_ema:
            flags.ema_decay = []
        device = devices.choose(flags.device)
        self.precision = devices.choose_precision(flags.precision, device)
        self.steps_per_run = flags.steps_per_run or train.STEPS_PER_RUN[device.kind]
        self.graph = train.build(flags, dataset(flags), self.precision, devices.choose_xla(flags.xla, device))
        self.session = devices.session()
        self.session.run(self.graph.initialize, self.graph.feeds)
        self.session.run(self.graph.shuffle)
        self.step = 0
        self.about = {
            "device": device.description,
            "precision": self.precision,
            "parameters": self.graph.parameters,
            "tensorflow": tf.__version__,
        }

    def run(self, steps):
        end = self.step + steps
        while self.step < end:
            until = min(self.step + self.steps_per_run, end)
            self.step, _ = map(int, self.session.run(self.graph.train, {self.graph.until: until}))

    def evaluate(self):
        for logits in self.graph.logits.values():
            np.argmax(self.session.run(logits), axis=1)


if __name__ == "__main__":
    tf.disable_eager_execution()
    ours = Ours(contestant.parse("no_ema"))
    ours.evaluate()  # warms up too
    contestant.serve(ours.about, ours.run, evaluate=ours.evaluate)
