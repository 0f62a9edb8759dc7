"""The records of a run: metrics.jsonl, the TensorBoard events, curves.png."""

import io
import json
import os
import shutil
import socket
import time

import tensorflow.compat.v1 as tf

from training.files import naming, write_whole

TRAINING = ("train_loss", "train_accuracy", "images_per_second")


class Records:
    """metrics.jsonl and the TensorBoard events of one run, beginning with the rows of evaluations done before.

    TensorBoard draws one curve for each directory of events: one a classifier, all under the tag `test_accuracy` (and
    `validation_accuracy`), and one for the training.
    """

    def __init__(self, path, rows=()):
        self.path, self.rows, self.events = path, list(rows), {}
        write_whole(path / "metrics.jsonl", b"".join(map(_line, self.rows)))
        shutil.rmtree(path / "tensorboard", ignore_errors=True)  # what a later session took back goes with the rest
        for row in self.rows:
            self._add_events(row)

    def append(self, row):
        """Adds a row, which is on the disk when this returns."""
        self.rows.append(row)
        file = self.path / "metrics.jsonl"
        with naming(file), file.open("ab") as opened:
            opened.write(_line(row))
            opened.flush()
            os.fsync(opened.fileno())
        self._add_events(row)

    def _add_events(self, row):
        scalars = {"training": {name: row[name] for name in TRAINING if name in row}}
        for label, accuracy in row["classifiers"].items():
            scalars[label] = {"test_accuracy": accuracy}
            if "validation" in row:
                scalars[label]["validation_accuracy"] = row["validation"][label]
        for name, values in scalars.items():
            if name not in self.events:
                self.events[name] = Events(self.path / "tensorboard" / name)
            self.events[name].add(row["step"], values)


def _line(row):
    return f"{json.dumps(row)}\n".encode()


class Events:
    """The TensorBoard events of one curve.

    tf.summary.FileWriter would write from a thread, whose failure (a full disk) prints a traceback.
    """

    def __init__(self, directory):
        """Begins anew: a TensorBoard that shows former events of the directory is told to drop them."""
        directory.mkdir(parents=True, exist_ok=True)
        self.began = time.time()
        self.file = directory / f"events.out.tfevents.{self.began:.6f}.{socket.gethostname()}.{os.getpid()}"
        with naming(self.file):
            self.writer = tf.io.TFRecordWriter(str(self.file))
            self._write(tf.Event(wall_time=self.began, file_version="brain.Event:2"))
            self._write(tf.Event(wall_time=self.began, session_log=tf.SessionLog(status=tf.SessionLog.START)))
            self.writer.flush()

    def add(self, step, values):
        """Writes scalars, tag to value, at a step; they are in the file when this returns."""
        value = [tf.Summary.Value(tag=tag, simple_value=number) for tag, number in values.items()]
        with naming(self.file):
            self._write(tf.Event(wall_time=time.time(), step=step, summary=tf.Summary(value=value)))
            self.writer.flush()

    def _write(self, event):
        self.writer.write(event.SerializeToString())


def draw_curves(path, rows):
    """Draws curves.png: test accuracy of the raw and the EMA weights over epochs."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for key, label in (("raw_accuracy", "raw weights"), ("ema_accuracy", "EMA weights")):
        accuracy = [100 * row[key] for row in rows]
        axes.plot(epochs, accuracy, marker="o", markersize=4, label=f"{label}, {accuracy[-1]:.2f}% at the end")
    axes.set_xlabel("epoch")
    axes.set_ylabel("test accuracy (%)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_whole(path / "curves.png", content.getvalue())
