"""metrics.jsonl and the TensorBoard events of a run."""

import json
import os
import socket
import time

import tensorflow.compat.v1 as tf

from training.files import naming, write_whole


class Metrics:
    """metrics.jsonl and the TensorBoard events of one run, beginning with the rows of evaluations done before."""

    def __init__(self, path, rows=()):
        self.path, self.rows = path, list(rows)
        write_whole(path / "metrics.jsonl", b"".join(map(_line, self.rows)))
        self.events = {name: Events(path / "tensorboard" / name) for name in ("raw", "ema")}
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
        self.events["raw"].add(row, test_accuracy=row["raw_accuracy"], train_loss=row["train_loss"])
        self.events["ema"].add(row, test_accuracy=row["ema_accuracy"])


def _line(row):
    return f"{json.dumps(row)}\n".encode()


class Events:
    """The TensorBoard events of one classifier; one directory each under one tag: TensorBoard draws them on one chart.

    tf.summary.FileWriter would write from a thread, whose failure (a full disk) prints a traceback.
    """

    def __init__(self, directory):
        """Begins anew: former events are deleted, and a TensorBoard that shows them already is told to drop them."""
        directory.mkdir(parents=True, exist_ok=True)
        for former in directory.glob("events.out.tfevents.*"):
            former.unlink()
        self.began = time.time()
        self.file = directory / f"events.out.tfevents.{self.began:.6f}.{socket.gethostname()}.{os.getpid()}"
        with naming(self.file):
            self.writer = tf.io.TFRecordWriter(str(self.file))
            self._write(tf.Event(wall_time=self.began, file_version="brain.Event:2"))
            self._write(tf.Event(wall_time=self.began, session_log=tf.SessionLog(status=tf.SessionLog.START)))
            self.writer.flush()

    def add(self, row, **values):
        """Writes the scalars `values` at the row's step; they are in the file when this returns."""
        value = [tf.Summary.Value(tag=tag, simple_value=number) for tag, number in values.items()]
        with naming(self.file):
            self._write(tf.Event(wall_time=time.time(), step=row["step"], summary=tf.Summary(value=value)))
            self.writer.flush()

    def _write(self, event):
        self.writer.write(event.SerializeToString())
