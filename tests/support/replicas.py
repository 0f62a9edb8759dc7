"""A tiny run on several replicas: 20 steps, an evaluation, and a step that is not finite on one replica.

    PYTHONPATH=.:tests TF_CONFIG=... python -m support.replicas <flags of train.py> FILE

FILE is an .npz with what this process found:

    losses              mean loss of each session.run, up to each step of UNTIL
    <variable>@<copy>   every copy in this process, after the last step
    logits/<label>      on the test images
    before/...          the variables again, after one weight of the last replica alone was set to NaN
    after/...           and after one more step
    skipped             skipped steps
"""

import sys

import numpy as np
import tensorflow.compat.v1 as tf

import train
from support.tiny import EPOCH_STEPS, dataset
from training import flags, settings, strategies

UNTIL = (1, 2, 3, 4, 8, 12, 16, 18, 20)  # the first steps one by one, then several in one session.run
FLAGS = ["--dataset", "synthetic", "--width", "0.05", "--device", "cpu", "--precision", "float32", "--batch_size", "16"]
FLAGS += ["--seed", "3", "--dropout", "0", "--ema_decay", "0.9", "--ema_batch_stats", "raw", "averaged"]


def main(argv, file):
    parsed = flags.parse([*FLAGS, "--run_dir", "unused", *argv])
    strategy = strategies.choose(parsed)
    resolved = settings.resolve(parsed, strategy, dataset(), network=None)
    with tf.Graph().as_default(), strategy.scope():
        graph = train.build(resolved, dataset())
        copies = {
            f"{variable.op.name}@{index}": copy
            for variable in tf.global_variables()
            for index, copy in enumerate(tf.distribute.get_strategy().experimental_local_results(variable))
        }
        with strategy.session(settings.fingerprint(resolved, dataset())) as session:
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], graph.feeds)
            found, step = {"losses": []}, 0
            for until in UNTIL:
                if step % EPOCH_STEPS == 0:
                    session.run(graph.shuffle)
                found["losses"].append(session.run(graph.loop.train, {graph.loop.until: until}).loss)
                step = until
            found |= session.run(copies)
            for label, test_classifier in graph.test_classifiers.items():
                found[f"logits/{label}"] = session.run(test_classifier.logits["test"])
            last_copy = list(copies)[-1].partition("@")[2]
            if last_copy == "1" or not strategy.chief:  # a worker has one copy
                beta = copies[f"class/dense/beta@{last_copy}"]
                beta.load(np.full(beta.shape, np.nan), session)
            found |= {f"before/{name}": value for name, value in session.run(copies).items()}
            session.run([graph.shuffle, graph.loop.reset])
            session.run(graph.loop.train, {graph.loop.until: UNTIL[-1] + 1})
            found |= {f"after/{name}": value for name, value in session.run(copies).items()}
            found["skipped"] = session.run(graph.loop.totals.skipped)
    np.savez(file, **found)


if __name__ == "__main__":
    tf.disable_eager_execution()
    main(sys.argv[1:-1], sys.argv[-1])
