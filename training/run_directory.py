"""The run directory: entered once, locked, and never overwritten.

config.json      every flag, versions, device, git commit; the first file of a run
train.log        what was printed
metrics.jsonl    one JSON object per evaluation
summary.json     the last evaluation, with the gain; at the end of a run, as predictions.npz and curves.png
curves.png       raw and EMA test accuracy over epochs
checkpoints/     see training.checkpoints
snapshots/       step-<step>.npz, the power-function averages
tensorboard/     a directory for each classifier, all on one chart
.lock            names the process that writes here
"""

import argparse
import contextlib
import errno
import fcntl
import itertools
import os
import platform
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from training import checkpoints
from training.command import REMEDIES, ROOT, UserError, leavings
from training.files import write_arrays, write_json, write_whole
from training.flags import is_utf8, load_config, load_flags, load_precision
from training.log import log, send_log_to

UNBEGUN = {".lock", ".config.json.new"}  # all that a start leaves behind when it is killed before config.json is there
locks = {}  # resolved run directory to its open .lock, which is held until the process ends


class Begun(NamedTuple):
    """What there is of a run before this process goes on with it."""

    flags: argparse.Namespace  # as typed then
    precision: str
    step: int  # of the newest checkpoint


class RunDirectory:
    """The directory of a run that this process trains. Until `begin`, nothing of a run that is there is changed.

    Args:
      flags: as typed.
      chief: False where another process, the chief, writes the directory: this one then only reads it.

    Raises:
      UserError: as `check`.
    """

    def __init__(self, flags, chief=True):
        self.flags, self.chief = flags, chief
        self.path, self.resume = Path(flags.run_dir) if flags.run_dir else take_directory(), flags.resume
        if chief or self.resume:
            self.check()

    def check(self):
        """Checks, without touching it, that the directory can take a new run or, with resume, go on with its own.

        Raises:
          UserError: a new run would overwrite something, or there is nothing whole to resume from.
        """
        path = self.path
        if self.resume:
            _check_resumable(path)
        elif (path / "config.json").exists():
            raise UserError(f"{path} exists already: continue it with --resume, or choose another --run_dir")
        elif path.exists() and (not path.is_dir() or {file.name for file in path.iterdir()} - UNBEGUN):
            raise UserError(f"{path} exists already and holds something else than a run: choose another --run_dir")

    def begun(self):
        """The run that is there already, as Begun; None for a new one."""
        if not self.resume:
            return None
        return Begun(load_flags(self.path), load_precision(self.path), checkpoints.last_step(self.path))

    def enter(self):
        """Makes the directory where it is missing, and locks it until the process ends, however it ends.

        Raises:
          UserError: it cannot be written, another process writes in it, or `check` refuses it by now.
        """
        if not self.chief:
            log.disabled = True  # the chief says it all
            return
        with _writing(self.path, self.resume):
            self.path.mkdir(parents=True, exist_ok=True)
            _lock(self.path)
            _part(self.path / "train.log")  # all others are written anew
            checkpoints.put_back(self.path)
            self.check()  # again: another process may have come and gone since
            if self.resume:
                send_log_to(self.path / "train.log")

    def restore(self, saver, session):
        """The state of the newest checkpoint that is whole, restored; None where the run begins at step 0."""
        if self.resume and checkpoints.found(self.path):  # a run that was killed before its first one begins again
            return checkpoints.restore(self.path, saver, session)
        return None

    def begin(self, resolved, step):
        """Writes config.json, opens the log, and forgets what tells of steps after `step`.

        Args:
          resolved: what stands beside the flags, `device` among it. The versions and the commit are added, and as
            `history` those of every process that has trained the run, each from which step on.
          step: at which this process begins.
        """
        made_with = {"versions": versions()} | source_version()
        history = []
        if self.resume:
            before = load_config(self.path)
            first = {name: before.get(name) for name in ("device", *made_with)}
            history = before.get("history")
            history = history if isinstance(history, list) else [{"step": 0} | first]
        history = [*history, {"step": step, "device": resolved["device"]} | made_with]
        config = {"flags": vars(self.flags)} | resolved | made_with | {"history": history}
        with _writing(self.path, self.resume):
            write_json(self.path / "config.json", config)
            send_log_to(self.path / "train.log")
            self._forget_after(step)

    def _forget_after(self, step):
        """Deletes what tells of steps after `step`, whose work is done again, or of a former end of the run."""
        for file in snapshots(self.path):
            if file.name > f"step-{step:09d}.npz":
                file.unlink()
        for name in ("summary.json", "predictions.npz", "curves.png"):
            (self.path / name).unlink(missing_ok=True)

    def save_snapshot(self, step, arrays):
        """Keeps the power-function averages of a step, {"<width>/<variable>": array}, for evaluate.py posthoc."""
        if not self.chief:
            return
        (self.path / "snapshots").mkdir(exist_ok=True)
        write_arrays(self.path / "snapshots" / f"step-{step:09d}.npz", arrays)


def snapshots(path):
    """The snapshots of a run, oldest first; a copy beside them is none."""
    return sorted(file for file in (path / "snapshots").glob("*") if re.fullmatch("step-[0-9]{9}.npz", file.name))


def take_directory():
    """A new directory that is named after the time; it goes again if nothing is written into it."""
    with _writing(Path("runs")):
        if not is_utf8(os.getcwd()):
            raise UserError(
                "the directory that you are in has a name that is no UTF-8: say where to write with --run_dir"
            )
        name = path = Path.cwd() / time.strftime("runs/%Y%m%d-%H%M%S")
        name.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(2):
            leavings.append(path)  # before it is there: a signal may come at any moment
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
            leavings.remove(path)
            path = name.with_name(f"{name.name}-{number}")


def _check_resumable(path):
    """A run without any checkpoint begins again at step 0, unless evaluations show that it had one."""
    found = checkpoints.found(path)
    if not found and not checkpoints.was_evaluated(path):
        return
    if not any(checkpoints.damage(checkpoint) is None for checkpoint in reversed(found)):
        raise checkpoints.unusable(path)


@contextlib.contextmanager
def _writing(path, resume=False):
    """Turns a failure to write into the directory `path` into one sentence."""
    try:
        yield
    except OSError as error:
        otherwise = "resume a copy of it" if resume else "choose another --run_dir"
        path = error.filename or path
        to_nothing = error.errno == errno.ENOENT and os.path.islink(path)
        number = errno.EEXIST if to_nothing else error.errno
        remedy = f"{REMEDIES[number]}, or {otherwise}" if number in REMEDIES else otherwise
        raise UserError(f"{path} cannot be written ({error.strerror}): {remedy}") from None


def _part(file):
    """Parts a file of a run that was copied by hard links from that of the run that it was copied from."""
    if file.is_file() and file.stat().st_nlink > 1:
        write_whole(file, file.read_bytes())


def _lock(path):
    """Locks the directory for this process; the kernel unlocks it when the process is gone, so no lock is ever stale.

    On NFS the lock holds between machines where the server supports locking, as every NFSv4 server does.
    """
    if path.resolve() in locks:
        return
    file = (path / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise UserError(
            f"{path} is in use by {holder}: wait until it ends or stop it (kill -TERM, which saves, then kill -CONT), "
            "or choose another --run_dir"
        ) from None
    except OSError as error:  # some network file systems know no locks
        print(f"warning: {path} cannot be locked ({error.strerror}): let no other process train in it", flush=True)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    locks[path.resolve()] = file


def versions():
    return {"python": platform.python_version(), "tensorflow": tf.__version__, "numpy": np.__version__}


def source_version():
    """The commit of this source tree and whether files of it were changed since; None for both where it is in no
    repository of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # of another repository

    def git(*arguments):
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=clean).stdout.strip()

    try:
        top, commit = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        if not os.path.samefile(top, ROOT):  # the sources lie in a repository of something else
            return {"git_commit": None, "git_changed": None}
        return {"git_commit": commit, "git_changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, ValueError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_changed": None}
