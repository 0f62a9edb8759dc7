"""metrics.jsonl and the TensorBoard events of a run."""

import json
import os

import tensorflow.compat.v1 as tf

from training.files import name_in_errors, write_whole

TRAINING = ("train_loss", "train_accuracy", "images_per_second")


class MetricsWriter:
    """Writes metrics.jsonl and TensorBoard events, starting with the rows of earlier evaluations.

    TensorBoard draws one curve per directory of events: one for each classifier, with the tags `test_accuracy` and
    `validation_accuracy`, and one for the training.

    Args:
      path: the run directory.
      rows: as written by an earlier process, up to the checkpoint.
    """

    def __init__(self, path, rows):
        self.path, self.events = path, {}
        write_whole(path / "metrics.jsonl", b"".join(map(_line, rows)))
        for file in path.glob("tensorboard/*/events.out.tfevents.*"):  # it may hold steps after the checkpoint
            file.unlink()
        for row in rows:
            self._add_events(row)

    def append(self, row):
        """Appends a row and flushes it to the disk."""
        path = self.path / "metrics.jsonl"
        with name_in_errors(path), path.open("ab") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        self._add_events(row)

    def _add_events(self, row):
        self._add("train", row["step"], {name: row[name] for name in TRAINING if name in row})
        for label, accuracy in row["classifiers"].items():
            scalars = {"test_accuracy": accuracy}
            if "validation" in row:
                scalars["validation_accuracy"] = row["validation"][label]
            # Short names, because TensorBoard truncates long ones.
            self._add(label.removeprefix("ema/").removesuffix("/raw").replace("/", "-"), row["step"], scalars)

    def _add(self, name, step, scalars):
        if name not in self.events:
            self.events[name] = tf.summary.FileWriter(str(self.path / "tensorboard" / name))
        values = [tf.Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self.events[name].add_summary(tf.Summary(value=values), step)
        self.events[name].flush()


def _line(row):
    return f"{json.dumps(row)}\n".encode()
