"""The records of a run: metrics.jsonl, the TensorBoard events, curves.png; and how all figures of ours are drawn.

TensorFlow and matplotlib are imported when they are first needed: a report does without the one, and a figure that
cannot be drawn ends no run.
"""

import io
import json
import logging
import os
import socket
import textwrap
import time

from training.files import naming, write_whole
from training.labels import Label, baseline_of, choose, primary
from training.log import log

# Okabe & Ito's palette, which colour-blind readers can tell apart too. Line styles tell curves apart as well.
BLUE, VERMILION, GREEN, PURPLE, YELLOW, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#F0E442", "#000000"
EMA = (VERMILION, "-")  # colour and line style
RAW = {"raw": (BLUE, "--"), "raw/recomputed": (BLACK, (0, (1, 1.5)))}  # the same, by label
SIZE = (5, 4)  # inches; at 400 pixels wide the letters are still 11 pixels high
STYLE = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 160,
    "svg.hashsalt": "ema",  # the same numbers give the same bytes
}

TRAINING = ("train_loss", "train_accuracy", "images_per_second")


class Records:
    """metrics.jsonl and the TensorBoard events of one run, beginning with the rows of evaluations done before.

    TensorBoard draws one curve for each directory of events: one a classifier, all under the tag `test_accuracy` (and
    `validation_accuracy`), and one for the training.
    """

    def __init__(self, path, rows=()):
        self.path, self.rows, self.events = path, list(rows), {}
        write_whole(path / "metrics.jsonl", b"".join(map(_line, self.rows)))
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
        scalars = {"train": {name: row[name] for name in TRAINING if name in row}}
        for label, accuracy in row["classifiers"].items():
            short = label.removeprefix("ema/").removesuffix("/raw").replace("/", "-")  # TensorBoard cuts long names off
            scalars[short] = {"test_accuracy": accuracy}
            if "validation" in row:
                scalars[short]["validation_accuracy"] = row["validation"][label]
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
        import tensorflow.compat.v1 as tf

        directory.parent.mkdir(exist_ok=True)  # not its parents: a run that was taken away is not made again
        directory.mkdir(exist_ok=True)
        self.began = time.time()
        self.file = directory / f"events.out.tfevents.{self.began:.6f}.{socket.gethostname()}.{os.getpid()}"
        with naming(self.file):
            for former in directory.glob("events.out.tfevents.*"):  # of steps that were taken back, too
                former.unlink()
            self.writer = tf.io.TFRecordWriter(str(self.file))
            self._write(tf.Event(wall_time=self.began, file_version="brain.Event:2"))
            self._write(tf.Event(wall_time=self.began, session_log=tf.SessionLog(status=tf.SessionLog.START)))
            self.writer.flush()

    def add(self, step, values):
        """Writes scalars, tag to value, at a step; they are in the file when this returns."""
        import tensorflow.compat.v1 as tf

        value = [tf.Summary.Value(tag=tag, simple_value=number) for tag, number in values.items()]
        with naming(self.file):
            self._write(tf.Event(wall_time=time.time(), step=step, summary=tf.Summary(value=value)))
            self.writer.flush()

    def _write(self, event):
        self.writer.write(event.SerializeToString())


# ---------------------------------------------------------------------------------------------------------------
# Figures


def draw_curves(path, rows):
    """Draws curves.png: test accuracy over epochs of the raw weights, the average chosen and its fair baseline."""
    epochs, labels = [row["epoch"] for row in rows], rows[-1]["classifiers"]
    average = choose(primary(labels), [rows[-1].get("validation", {})]).label

    def draw():
        axes = new_axes("epoch", "test accuracy (%)")
        for label in dict.fromkeys(["raw", baseline_of(average, labels), average]):
            values = [100 * row["classifiers"][label] for row in rows]
            name = f"{Label.parse(label).words}, {values[-1]:.2f} at the end"
            draw_curve(axes, epochs, values, *RAW.get(label, EMA), name)
        return with_legend(axes)

    if png := rendered("curves.png", draw, "png"):
        write_whole(path / "curves.png", *png)


def draw_curve(axes, epochs, values, colour, style, name):
    """Draws a curve over epochs."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.plot(epochs, values, linestyle=style, color=colour, linewidth=2, marker="o", markersize=3, label=name)


def with_legend(axes):
    """The axes, and the names of their curves above them, where they strike nothing through."""
    axes.figure.legend(loc="outside upper center")
    return axes


def new_axes(x, y, size=SIZE):
    """The axes of a new figure of `size` inches, with names for x and y; `axes.figure` is the figure."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    axes = Figure(figsize=size, layout="constrained").subplots()
    axes.set(xlabel=x, ylabel=y)
    return axes


def rendered(name, draw, *formats):
    """A figure in our style over matplotlib's defaults, whatever a matplotlibrc or the environment asks for.

    Args:
      name: of the figure, for a warning in the log where it cannot be drawn.
      draw: function without arguments that returns the axes.
      formats: "png" or "svg".

    Returns:
      For each of `formats` the bytes of a file; None where it cannot be drawn.
    """
    os.environ["MPLBACKEND"] = "agg"  # without a screen; of an unknown one the import fails
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it misses a directory for its cache, and needs none
    files = [io.BytesIO() for _ in formats]
    try:
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            figure = draw().figure
            for file, kind in zip(files, formats, strict=True):
                figure.savefig(file, format=kind, metadata={"Date": None})
    except Exception as error:  # fonts, caches, a directory for temporary files: nothing that a run has to end for
        log.warning(f"{name} could not be drawn: {textwrap.shorten(str(error), 200)}")
        return None
    return [file.getvalue() for file in files]
