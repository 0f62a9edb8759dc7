"""Implementation: the graph that train.py builds, with the flags of train.py; --no_ema leaves the averages out."""

import sys

import tensorflow.compat.v1 as tf
import worker

import data
import model
import train
from training import strategies
from training.log import parameters
from training.settings import fingerprint, resolve


def main(flags):
    if "--no_ema" in sys.argv:
        flags.ema_decay = []
    train_split, test_split = (data.Split(*worker.draw(size)) for size in (flags.train_size, 10))
    dataset = data.Dataset(train_split, test_split, "random", ("unnamed",) * worker.CLASSES)
    settings = resolve(flags, strategies.choose(flags), dataset, model.classifier)
    with settings.strategy.scope():
        graph = train.build(settings, dataset)
    about = settings.resolved() | {"parameters": parameters(graph.var_class), "tensorflow": tf.__version__}
    with settings.strategy.session(fingerprint(settings, dataset)) as session:
        session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], graph.feeds)
        step, loop, epoch_steps = 0, graph.loop, settings.epoch_steps

        def run(steps):  # in the same pieces as training.trainer
            nonlocal step
            end = step + steps
            while step < end:
                if step % epoch_steps == 0:
                    session.run(graph.shuffle)
                boundary = (step // epoch_steps + 1) * epoch_steps
                until = min(step + settings.steps_per_run, boundary, end)
                step = int(session.run(loop.train, {loop.until: until}).step)

        worker.serve(about, run)


if __name__ == "__main__":
    main(worker.parse())
