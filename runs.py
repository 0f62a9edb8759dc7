"""The run directory: config, log, metrics, checkpoints, TensorBoard events, curves; never overwritten.

config.json      every flag, versions, device, git commit
train.log        what was printed
metrics.jsonl    one JSON object per evaluation
summary.json     the last evaluation, with the gain
curves.png       raw and EMA test accuracy over epochs
checkpoints/     step-<step>/, the last KEEP of them; each with weights, batch statistics, shadows, Adam slots, step
tensorboard/     raw/ and ema/ on one chart
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from errors import UserError

KEEP = 3
log = logging.getLogger("train")


def check_directory(run_dir, resume):
    """Checks, without touching it, that the directory can take a new run or, with resume, go on with its own.

    Returns:
      Its path.

    Raises:
      UserError: a new run would overwrite something, or there is nothing to resume.
    """
    path = Path(run_dir)
    if resume and not checkpoints(path):
        raise UserError(f"{path} holds no checkpoint to resume: start anew in another --run_dir")
    if not resume and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: continue it with --resume, or choose another --run_dir")
    return path


def open_directory(run_dir):
    """Makes the run directory where it is missing, and sends the log to stdout and to its train.log.

    Raises:
      UserError: it cannot be written.
    """
    path = Path(run_dir)
    try:
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)
        handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(path / "train.log")]
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another --run_dir") from None
    logging.raiseExceptions = False  # a closed pipe (| head) must not end a run
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = handlers
    return path


def write_json(path, value):
    """Writes a JSON file whole or not at all."""
    beside = path.with_name(f".{path.name}.new")
    with beside.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def save_arrays(path, arrays):
    """Writes an .npz whole or not at all; read it with numpy.load(path, allow_pickle=False)."""
    beside = path.with_name(f".{path.name}")
    np.savez(beside, **arrays)
    beside.replace(path)


def save_snapshot(path, step, arrays):
    """Keeps the power-function averages of a step, {"<width>/<variable>": array}, for evaluate.py posthoc."""
    (path / "snapshots").mkdir(exist_ok=True)
    save_arrays(path / "snapshots" / f"step-{step:09d}.npz", arrays)


def git_commit():
    """The commit of this source tree, or None outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# ---------------------------------------------------------------------------------------------------------------
# Metrics


class Metrics:
    """metrics.jsonl and the TensorBoard events of one run."""

    def __init__(self, path, last_step):
        """Continues after `last_step`: rows of later steps belong to work that was lost, and is done again."""
        self.path = path / "metrics.jsonl"
        self.rows = [row for row in read_metrics(path) if row["step"] <= last_step]
        beside = self.path.with_name(".metrics.jsonl.new")
        beside.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        beside.replace(self.path)
        self.writers = {}
        self.tensorboard = path / "tensorboard"

    def append(self, row):
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._event("raw", row, test_accuracy=row["raw_accuracy"], train_loss=row["train_loss"])
        self._event("ema", row, test_accuracy=row["ema_accuracy"])

    def _event(self, name, row, **values):
        """One sub-directory per classifier under one tag: TensorBoard draws them on one chart."""
        if name not in self.writers:
            self.writers[name] = tf.summary.FileWriter(str(self.tensorboard / name))
        summary = tf.Summary(value=[tf.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self.writers[name].add_summary(summary, row["step"])
        self.writers[name].flush()


def read_metrics(path):
    """The rows of a run's metrics.jsonl; a last line that was cut short by a crash is left out."""
    file = Path(path) / "metrics.jsonl"
    rows = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


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
    figure.savefig(path / "curves.png", dpi=120)


# ---------------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(path, saver, session, state):
    """Writes checkpoints/step-<step>: beside first, with digests, and renamed when it is whole.

    Args:
      path: the run directory.
      saver: tf.train.Saver of everything that the run must not lose.
      state: JSON-able dict with at least `step`, kept with the checkpoint.
    """
    final = path / "checkpoints" / f"step-{state['step']:09d}"
    if final.exists():
        return
    beside = path / "checkpoints" / ".new"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        saver.save(session, str(beside / "model"), write_meta_graph=False, write_state=False)
    except tf.errors.OpError as error:
        raise UserError(
            f"the checkpoint could not be written ({error.message}): make room, then continue with --resume"
        ) from None
    digests = {file.name: _sha256(file) for file in sorted(beside.iterdir())}
    write_json(beside / "state.json", {**state, "sha256": digests})
    for file in [*beside.iterdir(), beside]:
        _fsync(file)
    beside.rename(final)
    _fsync(final.parent)
    for old in checkpoints(path)[:-KEEP]:
        shutil.rmtree(old)


def checkpoints(path):
    """The checkpoint directories of a run, oldest first."""
    return sorted(Path(path).glob("checkpoints/step-*"))


def restore_checkpoint(path, saver, session):
    """Restores the newest checkpoint that is whole; says so when it had to pass over a damaged one.

    Returns:
      The state given to `save_checkpoint`.

    Raises:
      UserError: there is none.
    """
    for checkpoint in reversed(checkpoints(path)):
        try:
            state = json.loads((checkpoint / "state.json").read_text())
            for name, digest in state.pop("sha256").items():
                if _sha256(checkpoint / name) != digest:
                    raise ValueError(f"{name} does not match its digest")
            saver.restore(session, str(checkpoint / "model"))
            return state
        except (OSError, ValueError, KeyError, AttributeError, tf.errors.OpError) as error:
            log.warning(f"{checkpoint} is damaged ({str(error).splitlines()[0]}): passing over it")
    raise UserError(f"{path} holds no usable checkpoint: start anew in another --run_dir")


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
