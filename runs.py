"""The run directory: config, log, metrics, checkpoints, TensorBoard events, curves; never overwritten.

config.json      every flag, versions, device, git commit; the first file of a run
train.log        what was printed
metrics.jsonl    one JSON object per evaluation
summary.json     the last evaluation, with the gain; at the end of a run, as predictions.npz and curves.png
curves.png       raw and EMA test accuracy over epochs
checkpoints/     step-<step>/, the last KEEP of them; each with weights, batch statistics, shadows, Adam slots, step,
                 every row of the metrics, and SHA256SUMS, which `sha256sum -c` checks too
snapshots/       step-<step>.npz, the power-function averages
tensorboard/     raw/ and ema/ on one chart
.lock            names the process that writes here

A checkpoint is the truth about a run. On resumption everything that tells of later steps is taken back, and
metrics.jsonl and the TensorBoard events are written anew from the checkpoint's rows.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from errors import UserError

KEEP = 3
SUMS = "SHA256SUMS"
UNBEGUN = {".lock", ".config.json.new"}  # all that a start leaves behind when it is killed before config.json is there
log = logging.getLogger("train")
locks = {}  # resolved run directory to its open .lock, which is held until the process ends


def check_directory(run_dir, resume):
    """Checks, without touching it, that the directory can take a new run or, with resume, go on with its own.

    Returns:
      Its path.

    Raises:
      UserError: a new run would overwrite something, or there is nothing whole to resume from.
    """
    path = Path(run_dir)
    if resume:
        _check_resumable(path)
    elif (path / "config.json").exists():
        raise UserError(f"{path} exists already: continue it with --resume, or choose another --run_dir")
    elif path.exists() and (not path.is_dir() or {file.name for file in path.iterdir()} - UNBEGUN):
        raise UserError(f"{path} exists already and holds something else than a run: choose another --run_dir")
    return path


def _check_resumable(path):
    """A run without any checkpoint begins again at step 0, unless evaluations show that it had one."""
    found = checkpoints(path)
    if found and not any(damage(checkpoint) is None for checkpoint in reversed(found)):
        raise _unusable(path)
    metrics = path / "metrics.jsonl"
    if not found and metrics.exists() and metrics.stat().st_size:
        raise UserError(
            f"{path} holds evaluations but no checkpoint to resume: restore {path / 'checkpoints'} from a copy, or "
            "start anew in another --run_dir"
        )


def open_directory(run_dir, config, resume=False):
    """Makes the run directory where it is missing, locks it, writes config.json, and sends the log to its train.log.

    The log goes to stdout as well. The lock is held until the process ends, however it ends.

    Raises:
      UserError: it cannot be written, another process writes in it, or `check_directory` refuses it by now.
    """
    path = Path(run_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _lock(path)
        check_directory(path, resume)  # again: another process may have come and gone since
        write_json(path / "config.json", config)
        handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(path / "train.log")]
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room or get access, or choose another --run_dir"
        ) from None
    logging.raiseExceptions = False  # a closed pipe (| head) must not end a run
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = handlers
    return path


def _lock(path):
    """Locks the directory for this process; the kernel unlocks it when the process is gone, so no lock is ever stale.

    On NFS the lock holds between machines where the server supports locking, as every NFSv4 server does.
    """
    if path.resolve() in locks:
        return
    file = (path / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{path} is in use by {holder}: wait until it ends or stop it (kill -TERM, which saves), or choose "
            "another --run_dir"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    locks[path.resolve()] = file


def write_whole(path, content):
    """Writes bytes to a file, whole or not at all.

    Raises:
      OSError: with the file's name.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with naming(path):
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path):
    """Turns every failure to write `path`, TensorFlow's included, into an OSError that names it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    except tf.errors.OpError as error:
        raise OSError(None, _reason(error), str(path)) from None


def _reason(error):
    """What went wrong, out of the many lines of a TensorFlow error: "<file>; <reason>" is one of them."""
    found = re.search("; (.+)$", error.message, re.MULTILINE)
    return found[1] if found else error.message.splitlines()[0]


def write_json(path, value):
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def save_arrays(path, arrays):
    """Writes an .npz; read it with numpy.load(path, allow_pickle=False)."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())


def save_snapshot(path, step, arrays):
    """Keeps the power-function averages of a step, {"<width>/<variable>": array}, for evaluate.py posthoc."""
    (path / "snapshots").mkdir(exist_ok=True)
    save_arrays(path / "snapshots" / f"step-{step:09d}.npz", arrays)


def forget_after(path, step):
    """Deletes what tells of steps after `step`, whose work is lost and done again, or of a former end of the run."""
    for file in (path / "snapshots").glob("step-*.npz"):
        if file.name > f"step-{step:09d}.npz":
            file.unlink()
    for name in ("summary.json", "predictions.npz", "curves.png"):
        (path / name).unlink(missing_ok=True)


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


# ---------------------------------------------------------------------------------------------------------------
# Checkpoints


def save_checkpoint(path, saver, session, state):
    """Writes checkpoints/step-<step>: beside first, with digests, flushed to the disk, and renamed when it is whole.

    A whole checkpoint of the same step is left alone, because the variables are a pure function of the step. Of the
    others the last KEEP stay; those of later steps go, because damage made the run go back behind them.

    Args:
      path: the run directory.
      saver: tf.train.Saver of everything that the run must not lose.
      state: JSON-able dict with at least `step`, kept with the checkpoint.

    Raises:
      OSError: it could not be written; those before it are untouched.
    """
    final = path / "checkpoints" / f"step-{state['step']:09d}"
    if final.exists() and damage(final) is None:
        return
    beside = final.with_name(".new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with naming(final):
            beside.mkdir(parents=True)
            saver.save(session, str(beside / "model"), write_meta_graph=False, write_state=False)
            write_json(beside / "state.json", state)
            write_whole(beside / SUMS, _sums(beside).encode())
            for file in [*beside.iterdir(), beside]:
                _fsync(file)
            if final.exists():
                shutil.rmtree(final)
            beside.rename(final)
            _fsync(final.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # on a full disk every byte counts
    kept = [checkpoint for checkpoint in checkpoints(path) if checkpoint.name <= final.name][-KEEP:]
    for other in set(checkpoints(path)) - set(kept):
        shutil.rmtree(other, ignore_errors=True)


def checkpoints(path):
    """The checkpoint directories of a run, oldest first."""
    return sorted(Path(path).glob("checkpoints/step-" + 9 * "[0-9]"))  # not a copy that someone put beside them


def last_step(path):
    """The step of a run's newest checkpoint, 0 where there is none."""
    return max((int(checkpoint.name.removeprefix("step-")) for checkpoint in checkpoints(path)), default=0)


def damage(checkpoint):
    """What is wrong with a checkpoint, in words; None where every file is what was written."""
    try:
        written, found = (checkpoint / SUMS).read_text(), _sums(checkpoint)
    except (OSError, ValueError) as error:
        return str(error)
    if written == found:
        return None
    differing = sorted({line.split()[-1] for line in set(written.splitlines()) ^ set(found.splitlines()) if line})
    return f"not as they were written: {', '.join(differing) or SUMS}"


def restore_checkpoint(path, saver, session):
    """Restores the newest checkpoint that is whole; says so when it had to pass over a damaged one.

    Returns:
      The state given to `save_checkpoint`.

    Raises:
      UserError: there is none.
    """
    for checkpoint in reversed(checkpoints(path)):
        reason = damage(checkpoint)
        if reason is None:
            try:
                saver.restore(session, str(checkpoint / "model"))
                return json.loads((checkpoint / "state.json").read_text())
            except tf.errors.OpError:
                raise UserError(
                    f"{checkpoint} is whole, but was written with other flags or by another version of this program: "
                    f"look at {path / 'config.json'}, and resume it with the version of its git_commit"
                ) from None
        log.warning(f"{checkpoint} is damaged ({reason}): passing over it")
    raise _unusable(path)


def _unusable(path):
    if not checkpoints(path):
        return UserError(f"{path} holds no checkpoint yet: let python train.py --resume --run_dir {path} go on first")
    return UserError(
        f"{path} holds no usable checkpoint, every one is damaged: restore {path / 'checkpoints'} from a copy, or "
        "start anew in another --run_dir"
    )


def _sums(directory):
    """A line "<sha256>  <name>" for each file in the directory, as sha256sum prints them."""
    files = sorted(file for file in directory.iterdir() if file.name != SUMS and not file.name.startswith("."))
    return "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)


def _fsync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
