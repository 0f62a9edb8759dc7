"""The run directory: created or resumed once, locked, never overwritten.

config.json      every flag, versions, device, git commit; the first file of a run
train.log        what was printed
metrics.jsonl    one JSON object per evaluation
summary.json     the last evaluation, with the gain; written at the end, like predictions.npz and curves.png
checkpoints/     see training.checkpoints
snapshots/       step-<step>.npz, the power-function averages
tensorboard/     one directory per classifier
.lock            held by the process that writes here
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
from training.flags import load_config, load_flags, load_precision
from training.log import log, send_log_to

NEW_RUN_FILES = {".lock"}  # a start that was killed early leaves no more
locks = {}  # run directory to its open .lock, held until the process ends


class SavedRun(NamedTuple):
    """The saved state of a run that is about to be resumed."""

    flags: argparse.Namespace
    precision: str
    step: int  # of the newest checkpoint


class RunDirectory:
    """The directory of a run. Nothing in an existing run is changed before `begin`.

    Args:
      flags: as typed.
      chief: False in a worker that only reads the directory.
    """

    def __init__(self, flags, chief=True):
        self.flags, self.chief, self.resume = flags, chief, flags.resume
        self.path = Path(flags.run_dir) if flags.run_dir else create_timestamped_dir(Path.cwd() / "runs")
        if chief or self.resume:
            self.check()

    def check(self):
        """Refuses a new run that would overwrite something."""
        path = self.path
        if self.resume:
            if checkpoints.was_evaluated(path) and not checkpoints.list_checkpoints(path):
                raise UserError(f"{path} has evaluations but no checkpoint: restore {path / 'checkpoints'} from a copy")
        elif (path / "config.json").exists():
            raise UserError(f"{path} already holds a run: continue it with --resume or choose another --run_dir")
        elif path.exists() and (not path.is_dir() or {file.name for file in path.iterdir()} - NEW_RUN_FILES):
            raise UserError(f"{path} exists and is not a run: choose another --run_dir")

    def begun(self):
        """The saved state of the run to resume; None for a new run."""
        if not self.resume:
            return None
        return SavedRun(load_flags(self.path), load_precision(self.path), checkpoints.last_step(self.path))

    def enter(self):
        """Creates the directory if needed and locks it until the process ends."""
        if not self.chief:
            log.disabled = True  # the chief logs
            return
        with _write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            _lock(self.path)
        self.check()  # another process may have started here in the meantime
        if self.resume:
            send_log_to(self.path / "train.log")

    def restore(self, saver, session):
        """Restores the newest good checkpoint and returns its state; None if the run starts at step 0."""
        if self.resume and checkpoints.list_checkpoints(self.path):
            return checkpoints.restore(self.path, saver, session)
        return None

    def begin(self, resolved, step):
        """Writes config.json, opens the log and deletes what is newer than `step`.

        Args:
          resolved: saved beside the flags; has `device`. `history` lists every process that trained the run.
          step: at which this process starts.
        """
        made_with = {"versions": versions()} | source_version()
        history = load_config(self.path).get("history", []) if self.resume else []
        history = [*history, {"step": step, "device": resolved["device"]} | made_with]
        config = {"flags": vars(self.flags)} | resolved | made_with | {"history": history}
        write_json(self.path / "config.json", config)
        send_log_to(self.path / "train.log")
        for file in list_snapshots(self.path):
            if file.name > f"step-{step:09d}.npz":
                file.unlink()
        for name in ("summary.json", "predictions.npz", "curves.png"):
            (self.path / name).unlink(missing_ok=True)

    def save_snapshot(self, step, arrays):
        """Saves the power-function averages of a step, {"<width>/<variable>": array}, for evaluate.py posthoc."""
        if not self.chief:
            return
        (self.path / "snapshots").mkdir(exist_ok=True)
        write_arrays(self.path / "snapshots" / f"step-{step:09d}.npz", arrays)


def list_snapshots(path):
    """The snapshots of a run, oldest first."""
    return sorted(f for f in (path / "snapshots").glob("step-*.npz") if re.fullmatch("step-[0-9]{9}.npz", f.name))


def create_timestamped_dir(parent):
    """Creates <parent>/<date>-<time>, with a number appended if another run started in the same second."""
    name = time.strftime("%Y%m%d-%H%M%S")
    with _write_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = parent / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
                return path
            except FileExistsError:
                continue


@contextlib.contextmanager
def _write_errors(path):
    """Turns an OSError while `path` is created into one sentence."""
    try:
        yield
    except OSError as error:
        hint = f"{ERRNO_HINTS[error.errno]}, or choose" if error.errno in ERRNO_HINTS else "choose"
        raise UserError(f"cannot write to {path} ({error.strerror}): {hint} another --run_dir") from None


def _lock(path):
    """Locks the directory; the kernel releases the lock when the process ends."""
    if path.resolve() in locks:
        return
    file = (path / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(f"{path} is in use by {file.read().strip()}: wait for it or choose another --run_dir") from None
    except OSError:
        pass  # a file system without locks
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}\n")
    file.flush()
    locks[path.resolve()] = file


def versions():
    return {"python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__}


def source_version():
    """The git commit of the sources and whether they were modified; None for both outside a repository."""

    def git(*arguments):
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_changed": None}
