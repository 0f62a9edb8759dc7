"""Contestant: the graph that train.py builds, with the flags of train.py; --no_ema leaves the averages out."""

import sys
from functools import partial

import tensorflow.compat.v1 as tf
import worker

import data
import model
import train
from training import strategies
from training.log import parameters
from training.settings import resolve


class Ours:
    """The graph of train.py in a session, stepped as training.trainer does it."""

    def __init__(self, flags):
        if "--no_ema" in sys.argv:
            flags.ema_decay = []
        place = strategies.choose(flags)
        splits = (data.Split(*worker.draw(size)) for size in (flags.train_size, 10))  # nothing is evaluated
        network = partial(model.classifier, width=flags.width, dropout_rate=flags.dropout)
        self.settings = resolve(flags, place, None, flags.train_size, network)
        with place.scope():
            self.graph = train.build(self.settings, data.Dataset(*splits, "random"))
        self.session = place.session()
        self.session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], self.graph.feeds)
        self.step = 0
        self.about = self.settings.resolved() | {
            "parameters": parameters(self.graph.var_class),
            "tensorflow": tf.__version__,
        }

    def run(self, steps):
        end, loop, epoch_steps = self.step + steps, self.graph.loop, self.settings.epoch_steps
        while self.step < end:
            if self.step % epoch_steps == 0:
                self.session.run(self.graph.shuffle)
            boundary = (self.step // epoch_steps + 1) * epoch_steps
            until = min(self.step + self.settings.steps_per_run, boundary, end)
            self.step = int(self.session.run(loop.train, {loop.until: until}).step)


if __name__ == "__main__":
    step = Ours(worker.parse())
    worker.serve(step.about, step.run)
