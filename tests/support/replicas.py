"""A tiny run on several replicas, as a process: twenty steps, one that is spoilt on one replica, and an evaluation.

    PYTHONPATH=.:tests TF_CONFIG=... python -m support.replicas <flags of train.py> FILE

FILE is an .npz of what the run came to in this process:

    losses              of the session.runs up to each step of UNTIL, their means
    <variable>@<copy>   after the last of them, every copy that this process holds
    before/...          the same when a weight of the last replica alone has become NaN
    spoilt/...          and after one more step, which is not finite there
    skipped             how many steps were skipped then
    logits/<label>      on the test images, before that
"""

import sys

import numpy as np
import tensorflow.compat.v1 as tf

import train
from support.tiny import EPOCH_STEPS, dataset
from training import flags, places, settings

UNTIL = (1, 2, 3, 4, 8, 12, 16, 18, 20)  # the first steps one by one, the others in one session.run
FLAGS = ["--dataset", "synthetic", "--width", "0.05", "--device", "cpu", "--precision", "float32", "--batch_size", "16"]
FLAGS += ["--seed", "3", "--dropout", "0", "--ema_decay", "0.9", "--ema_batch_stats", "raw", "averaged"]
FLAGS += ["--run_dir", "unused"]


def main(argv, file):
    parsed = flags.parse([*FLAGS, *argv])
    place = places.choose(parsed)
    with tf.Graph().as_default(), place.scope():
        graph = train.build(settings.resolve(parsed, place, None, len(dataset().train.labels), network=None), dataset())
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
            for label, tested in graph.test_classifiers.items():
                found[f"logits/{label}"] = session.run(tested.logits["test"])
            last = list(copies)[-1].partition("@")[2]
            if last == "1" or not place.chief:  # of workers each has one copy
                beta = copies[f"class/dense/beta@{last}"]
                beta.load(np.full(beta.shape, np.nan), session)
            found |= {f"before/{name}": value for name, value in session.run(copies).items()}
            session.run([graph.shuffle, graph.loop.reset])
            session.run(graph.loop.train, {graph.loop.until: UNTIL[-1] + 1})
            found |= {f"spoilt/{name}": value for name, value in session.run(copies).items()}
            found["skipped"] = session.run(graph.loop.totals.skipped)
    np.savez(file, **found)


if __name__ == "__main__":
    tf.disable_eager_execution()
    main(sys.argv[1:-1], sys.argv[-1])
