"""A tiny run on several replicas, as a process: twenty steps, one that is spoilt on one replica, and an evaluation.

    PYTHONPATH=.:tests TF_CONFIG=... python -m support.replicas <flags of train.py> FILE

FILE is an .npz of what the run came to in this process:

    losses              of the session.runs up to each step of UNTIL, their means
    <variable>@<copy>   after the last of them, every copy that this process holds
    spoilt/...          the same after one more step, whose loss is NaN on the last replica alone
    skipped             how many steps were skipped then
    logits/<label>      on the test images, after that
"""

import sys

import numpy as np
import tensorflow.compat.v1 as tf

import train
from support.tiny import EPOCH_STEPS, dataset
from training import config, parallel, settings, strategy

UNTIL = (1, 2, 3, 4, 8, 12, 16, 18, 20)  # the first steps one by one, the others in one session.run
FLAGS = ["--dataset", "synthetic", "--width", "0.05", "--device", "cpu", "--precision", "float32", "--batch_size", "16"]
FLAGS += ["--seed", "3", "--dropout", "0", "--ema_decay", "0.9", "--ema_batch_stats", "raw", "averaged"]


def main(argv, file):
    flags = config.parse([*FLAGS, *argv])
    place = parallel.choose(flags)
    cross_entropy = train.cross_entropy

    def spoilt(*args):
        """The loss; NaN on the last replica in the step after those that are compared."""
        replica, replicas = strategy.this_replica()
        bad = tf.equal(tf.train.get_global_step().read_value(), UNTIL[-1]) & (replica == replicas - 1)
        return cross_entropy(*args) + tf.where(bad, np.nan, 0.0)

    train.cross_entropy = spoilt
    with tf.Graph().as_default(), place.scope():
        graph = train.build(settings.resolve(flags, place.device, len(dataset().train.labels), replicas=2), dataset())
        copies = {
            f"{variable.op.name}@{index}": copy
            for variable in tf.global_variables()
            for index, copy in enumerate(tf.distribute.get_strategy().experimental_local_results(variable))
        }
        with place.session() as session:
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], graph.feeds)
            found, before = {"losses": []}, 0
            for until in UNTIL:
                if before % EPOCH_STEPS == 0:
                    session.run(graph.shuffle)
                found["losses"].append(session.run(graph.loop.train, {graph.loop.until: until}).loss)
                before = until
            found |= session.run(copies)
            session.run([graph.shuffle, graph.loop.reset])
            session.run(graph.loop.train, {graph.loop.until: UNTIL[-1] + 1})
            found |= {f"spoilt/{name}": value for name, value in session.run(copies).items()}
            found["skipped"] = session.run(graph.loop.totals.skipped)
            for label, tested in graph.tested.items():
                found[f"logits/{label}"] = session.run(tested.logits["test"])
    np.savez(file, **found)


if __name__ == "__main__":
    tf.disable_eager_execution()
    main(sys.argv[1:-1], sys.argv[-1])
