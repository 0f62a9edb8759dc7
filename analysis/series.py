"""train.py --seeds: the same run once for each seed, one process after the other, then the report over them all.

A process each, because TensorFlow's state would leak from one run into the next, and because a run that is stopped
or fails then ends as it would alone.
"""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from training import signals
from training.config import UNBEGUN, load_flags
from training.errors import UserError
from training.options import as_argv

ROOT = Path(__file__).parent.parent


def main(flags):
    """Trains every seed that is not finished, in run_dir/seed-<seed>, and writes run_dir/report.

    Raises:
      UserError: run_dir is taken, or one run stopped or failed: the sentence says how to go on with all of them.
      SystemExit: the first run failed before it began, and has said why, with its status; or the report's.
    """
    path = Path(flags.run_dir)
    check_directory(path, flags.resume)
    seeds = list(map(str, flags.seeds))
    for seed in flags.seeds:
        directory = path / f"seed-{seed}"
        if is_finished(directory, flags):
            print(f"{directory} is finished", flush=True)
            continue
        status = run_to_end(command(flags, seed, directory))
        if status and not any(path.glob("seed-*/config.json")):
            sys.exit(status)
        if status:
            resume = f"python train.py --resume --run_dir {shlex.quote(str(path))} --seeds"
            raise UserError(
                f"seed {seed} has not come to its end; continue all of them with: {resume} {shlex.join(seeds)}", status
            )
    status = run_to_end([sys.executable, str(ROOT / "report.py"), str(path), "--output", str(path / "report")])
    sys.exit(status)


def check_directory(path, resume):
    if (path / "config.json").exists():
        raise UserError(f"{path} holds a single run: choose another --run_dir for --seeds")
    if not resume and path.exists() and not (path.is_dir() and is_unbegun(path)):
        raise UserError(f"{path} exists already: continue it with --resume, or choose another --run_dir")


def is_unbegun(path):
    """Whether there is no more in it than a series leaves that is killed before its first run has begun."""
    return all(file.name in UNBEGUN for file in path.rglob("*") if not file.is_dir())


def is_finished(directory, flags):
    """Whether the run has been trained as `flags` want it; damage, and what it cannot become, is for itself to find."""
    try:
        trained = json.loads((directory / "summary.json").read_text())["epoch"] >= flags.epochs
        return trained and load_flags(directory).lr_cooldown == flags.lr_cooldown
    except (OSError, ValueError, KeyError, TypeError, UserError):
        return False


def command(flags, seed, directory):
    """The command line of one run: begun, or continued where it was begun before."""
    values = {name: value for name, value in vars(flags).items() if name != "seeds"}
    values |= {"seed": seed, "run_dir": directory, "resume": (directory / "config.json").exists()}
    return [sys.executable, str(ROOT / "train.py"), *as_argv(values)]


def run_to_end(arguments, directory=None):
    """Runs a command to its end, in a directory if one is given, and passes on to it what signals come meanwhile.

    It has a session of its own: in this one, Ctrl-C would reach it twice, and a second one stops it without saving.

    Returns:
      Its exit status, 128 + n where signal n ended it or came too late for it.
    """
    received, started = [], []

    def pass_on(number, _):
        received.append(number)
        for process in started:
            process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in signals.handled()}
    try:
        started.append(subprocess.Popen(arguments, cwd=directory, start_new_session=True))
        if received:  # before there was a process to pass it on to
            started[0].send_signal(received[0])
        status = started[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status < 0:
        return 128 - status
    return status or (128 + received[0] if received else 0)
