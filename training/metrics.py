"""metrics.jsonl and the TensorBoard events of a run."""

import json
import os

import tensorflow.compat.v1 as tf

from training.files import name_in_errors, write_whole

TRAINING = ("train_loss", "train_accuracy", "images_per_second")


class Records:
    """metrics.jsonl and the TensorBoard events of one run, beginning with the rows of evaluations done before.

    TensorBoard draws one curve for each directory of events: one a classifier, all under the tag `test_accuracy` (and
    `validation_accuracy`), and one for the training.
    """

    def __init__(self, path, rows=()):
        self.path, self.rows, self.writers = path, list(rows), {}
        write_whole(path / "metrics.jsonl", b"".join(map(_line, self.rows)))
        for events in path.glob("tensorboard/*/events.out.tfevents.*"):  # they may hold steps after the checkpoint
            events.unlink()
        for row in self.rows:
            self._add_events(row)

    def append(self, row):
        """Adds a row, which is on the disk when this returns."""
        self.rows.append(row)
        file = self.path / "metrics.jsonl"
        with name_in_errors(file), file.open("ab") as opened:
            opened.write(_line(row))
            opened.flush()
            os.fsync(opened.fileno())
        self._add_events(row)

    def _add_events(self, row):
        scalars = {"train": {name: row[name] for name in TRAINING if name in row}}
        for label, accuracy in row["classifiers"].items():
            short = label.removeprefix("ema/").removesuffix("/raw").replace("/", "-")  # TensorBoard cuts long names off
            scalars[short] = {"test_accuracy": accuracy}
            if "validation" in row:
                scalars[short]["validation_accuracy"] = row["validation"][label]
        for name, values in scalars.items():
            if name not in self.writers:
                self.writers[name] = tf.summary.FileWriter(str(self.path / "tensorboard" / name))
            summary = tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
            self.writers[name].add_summary(summary, row["step"])
            self.writers[name].flush()


def _line(row):
    return f"{json.dumps(row)}\n".encode()
