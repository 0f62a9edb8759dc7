"""The run directory: locked by one process at a time, resumed, never overwritten.

config.json      every flag, versions, device, git commit; the first file of a run
train.log        what was printed
metrics.jsonl    one JSON object per evaluation
summary.json     the last row of metrics.jsonl, parameters, device; written at the end, like predictions.npz, curves.png
checkpoints/     see training.checkpoints
snapshots/       step-<step>.npz, the power-function averages
tensorboard/     one directory per classifier
.lock            names the process that writes here
"""

import argparse
import contextlib
import fcntl
import itertools
import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from training import checkpoints
from training.cli import ERRNO_HINTS, ROOT, UserError
from training.files import write_arrays, write_json
from training.flags import check_new, load_config, load_flags, load_precision
from training.log import log, send_log_to

locks = {}  # resolved path of a run directory to its open .lock, held until the process ends


class SavedRun(NamedTuple):
    """A run that is about to be resumed."""

    flags: argparse.Namespace
    precision: str
    step: int  # of the newest checkpoint


def load_saved_run(run_dir):
    """Returns the SavedRun in a directory.

    Raises:
      UserError: the directory does not hold a run, or its config.json is corrupt.
    """
    return SavedRun(load_flags(run_dir), load_precision(run_dir), checkpoints.last_step(run_dir))


class RunDirectory:
    """The directory of a run, created if necessary, and locked.

    The files of an existing run stay as they are before `start_log`; only its log may get a warning.

    Args:
      settings: training.settings.Settings; a worker that is not the chief only reads the directory.

    Raises:
      UserError: the directory cannot be written, is in use by another process, or a new run would overwrite something.
    """

    def __init__(self, settings):
        self.settings, self.resume = settings, settings.flags.resume
        if not settings.strategy.chief:
            self.path = Path(settings.run_dir)
            log.disabled = True  # the chief logs
            return
        with _write_errors(self.resume):
            if settings.run_dir:
                self.path = Path(settings.run_dir)
                self.path.mkdir(parents=True, exist_ok=True)
            else:
                self.path = create_timestamped_dir(Path.cwd() / "runs")
            _lock(self.path)
        if self.resume:
            send_log_to(self.path / "train.log")
        else:
            check_new(self.path)  # again: another process may have started here since the flags were parsed

    def restore(self, saver, session):
        """Restores the newest intact checkpoint and returns its state; {} if the run starts at step 0."""
        return checkpoints.restore(self.path, saver, session) if self.resume else {}

    def start_log(self, step):
        """Writes config.json, opens the log and deletes files of steps after `step`, at which this process starts.

        `history` in config.json lists every process that trained the run: its first step, device, versions, commit.
        """
        resolved, made_with = self.settings.resolved(), {"versions": versions()} | source_version()
        history = load_config(self.path).get("history", []) if self.resume else []
        history = [*history, {"step": step, "device": resolved["device"]} | made_with]
        config = {"flags": vars(self.settings.flags)} | resolved | made_with | {"history": history}
        with _write_errors(self.resume):
            write_json(self.path / "config.json", config)
            send_log_to(self.path / "train.log")
        for file in list_snapshots(self.path):
            if file.name > _snapshot_name(step):
                file.unlink()
        for name in ("summary.json", "predictions.npz", "curves.png"):
            (self.path / name).unlink(missing_ok=True)

    def save_snapshot(self, step, arrays):
        """Saves the power-function averages of a step, {"<std>/<variable>": array}, for evaluate.py posthoc."""
        (self.path / "snapshots").mkdir(exist_ok=True)
        write_arrays(self.path / "snapshots" / _snapshot_name(step), arrays)


def _snapshot_name(step):
    return f"step-{step:09d}.npz"


def list_snapshots(path):
    """Returns the snapshot files of a run, oldest first."""
    files = (Path(path) / "snapshots").glob("step-*.npz")
    return sorted(file for file in files if re.fullmatch("step-[0-9]{9}.npz", file.name))


def create_timestamped_dir(parent):
    """Creates <parent>/<date>-<time>, with a number appended if another run started in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    name = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path


@contextlib.contextmanager
def _write_errors(resume):
    """Turns an OSError into one sentence that says where to write instead."""
    try:
        yield
    except OSError as error:
        instead = "resume a copy of the run" if resume else "choose another --run_dir"
        hint = f"{ERRNO_HINTS[error.errno]}, or {instead}" if error.errno in ERRNO_HINTS else instead
        raise UserError(f"cannot write {error.filename} ({error.strerror}): {hint}") from None


def _lock(path):
    """Locks the directory; the kernel releases the lock when the process ends."""
    if path.resolve() in locks:
        return
    file = (path / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise UserError(f"{path} is in use by {holder}: wait until it ends or choose another --run_dir") from None
    except OSError as error:
        log.warning(f"{path} cannot be locked ({error.strerror}): do not start a second process there")
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    locks[path.resolve()] = file


def versions():
    return {"python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__}


def source_version():
    """Returns the git commit of the sources and whether they were modified; None for both outside a repository."""

    def git(*arguments):
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_changed": None}
