"""Kills a run (SIGKILL) at named and at random moments and resumes it to its end; compares it with one left alone.

    PYTHONPATH=.:tests python -m support.killing --kills 30 --seed 0 /tmp/killed

A random moment is the n-th thing that happens (a call, a line, a return) in the modules that write the run directory
and drive the run, or a little later, inside native code, or while the graph is still being built. Processes are forked
from this one after TensorFlow's import, which would take most of the time otherwise. Prints where the run was killed,
as JSON.
"""

import argparse
import collections
import json
import os
import random
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from support import forking
from support.commands import ROOT, TINY_RUN
from support.files import (
    TIMINGS,
    assert_equal_arrays,
    checkpoint_values,
    read_arrays,
    read_rows,
    rows_without_timings,
    scalars,
)
from training import checkpoints, run_directory

AVERAGING_RUN = [  # of every kind of file, with several checkpoints and snapshots in an epoch
    *TINY_RUN,
    *shlex.split(
        "--augment --ema_decay 0.9 0.99 --ema_start unbiased --ema_batch_stats raw averaged --ema_power 0.1 "
        "--snapshots 2 --checkpoint_every 3 --steps_per_run 2"
    ),
]
WATCHED = {
    str(ROOT / "training" / f"{name}.py") for name in ("checkpoints", "run_directory", "metrics", "files", "trainer")
}
EVENTS = 3000  # a random moment comes within so many events, about one epoch of AVERAGING_RUN
BUILDING = 1.5  # seconds, which building the graph takes at least


class Moment(NamedTuple):
    """Before or after a function runs, called, perhaps through others, by another one.

    Both are named "<module>.<function>", by the module's last name; built-in ones have Python's own, as posix.rename.
    """

    when: str  # "before" or "after"
    function: str
    inside: str
    number: int = 1  # of such moments in the life of the process

    def __str__(self):
        return f"{self.when} {self.function} {self.number} in {self.inside}"

    def arm(self, then):
        """Has `then` done at this moment, from now on in this thread."""
        left = self.number

        def profile(frame, event, argument):
            nonlocal left
            native = event.startswith("c_")
            if event.endswith("call") != (self.when == "before"):
                return
            if self.function != (f"{argument.__module__}.{argument.__name__}" if native else name_of(frame)):
                return
            caller = frame if native else frame.f_back
            while caller and name_of(caller) != self.inside:
                caller = caller.f_back
            if caller:
                left -= 1
                if left == 0:
                    then()

        sys.setprofile(profile)


# Moments that chance may miss, in the order in which a run comes by them.
NAMED = (
    Moment("before", "files.write_json", "run_directory.begin"),  # no config.json yet
    Moment("before", "posix.rename", "checkpoints.save"),  # written, but not in its place
    Moment("before", "metrics.append", "trainer.run"),  # the checkpoint has a row that metrics.jsonl has not
    Moment("after", "posix.rename", "checkpoints.save", 2),  # in its place, the older ones still there
    Moment("after", "trainer.predict", "trainer.evaluate"),  # one classifier evaluated, not the others
    Moment("before", "posix.fsync", "run_directory.save_snapshot"),
    Moment("after", "run_directory.enter", "train.main"),  # locked, nothing read
)
LAST = Moment("before", "files.write_json", "trainer.finish")  # predictions.npz is there, summary.json is not


def name_of(frame):
    return f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"


def run(argv, log, before=lambda: None):
    return forking.run("train.py", argv, log, log, before)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(seconds):
    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()


def at(moment, report):
    """What makes a process kill itself at a Moment; its text goes to the file `report`."""

    def then():
        sys.setprofile(None)
        report.write_text(str(moment))
        kill()

    return lambda: when_entered(lambda: moment.arm(then))


def after_events(count, report, then=kill):
    """What makes a process have `then` done at the `count`-th event in WATCHED; the place goes to `report`."""

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in WATCHED:
            return None
        count -= 1
        if count == 0:
            report.write_text(f"{event} in {name_of(frame)}")
            then()
        return trace

    return lambda: when_entered(lambda: sys.settrace(trace))


def when_entered(action):
    """Has `action` done just before the run directory is entered, when the graph is built."""
    enter = run_directory.RunDirectory.enter

    def entered(self):
        action()
        return enter(self)

    run_directory.RunDirectory.enter = entered


def draw_moment(random, report):
    kind, count = random.choices(["at", "soon after", "start"], [5, 4, 1])[0], random.randrange(1, EVENTS)
    if kind == "at":
        return after_events(count, report)
    if kind == "soon after":
        delay = random.uniform(0, 0.1)
        return after_events(count, report, then=lambda: kill_after(delay))
    delay = random.uniform(0, BUILDING)
    return lambda: kill_after(delay)


def train_killed(directory, epochs, kills, random, named=NAMED):
    """Trains in `directory`, killed `kills` times and resumed each time; asserts what must hold after every kill.

    The moments are the `named` ones, random ones, and LAST.

    Returns:
      Where it was killed, or just before: Counter of texts, "start" for the building of the graph.
    """
    argv = [*AVERAGING_RUN, "--epochs", str(epochs), "--run_dir", str(directory)]
    log, report = directory.with_suffix(".log"), directory.with_suffix(".where")
    places = collections.Counter()
    moments = [at(moment, report) for moment in named[: kills - 1]]
    moments += [draw_moment(random, report) for _ in range(kills - len(moments) - 1)]
    moments += [at(LAST, report)]
    for arm in moments:
        report.write_text("start")
        status = run(resumed(argv, directory), log, arm)
        assert status == -signal.SIGKILL, f"status {status} after {places.total()} kills, see {log}"
        places[report.read_text()] += 1
        check_after_kill(directory)
    assert run(resumed(argv, directory), log) == 0, log.read_text()
    return places


def resumed(argv, directory):
    """The command that anyone would type: --resume once there is a run, else the same again."""
    return ["--resume", "--run_dir", str(directory)] if (directory / "config.json").exists() else argv


def check_after_kill(directory):
    """The newest checkpoint is whole, metrics.jsonl has whole lines alone, and tells no more than that checkpoint."""
    rows = read_rows(directory)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    if found := checkpoints.found(directory):
        assert checkpoints.damage(found[-1]) is None
        kept = json.loads((found[-1] / "state.json").read_text())["rows"]
        assert rows == kept[: len(rows)]
        assert len(kept) - len(rows) <= 1
    else:
        assert rows == []


def numbers(directory):
    """All arrays that a run computed: what must be the same, bit for bit."""
    arrays = {f"variable {name}": value for name, value in checkpoint_values(directory).items()}
    for file in [directory / "predictions.npz", *sorted((directory / "snapshots").iterdir())]:
        arrays |= {f"{file.name} {name}": value for name, value in read_arrays(file).items()}
    return arrays


def names(directory):
    """Every file, but those of TensorBoard, whose names have the time in them."""
    return {str(file.relative_to(directory)) for file in directory.rglob("*") if "events.out" not in file.name}


def timeless_scalars(directory):
    return {
        curve: {tag: points for tag, points in tags.items() if tag not in TIMINGS}
        for curve, tags in scalars(directory).items()
    }


def assert_same(directory, reference):
    assert_equal_arrays(numbers(directory), numbers(reference))
    assert rows_without_timings(directory) == rows_without_timings(reference)
    assert names(directory) == names(reference)
    assert timeless_scalars(directory) == timeless_scalars(reference)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to train; must not exist")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.directory.mkdir(parents=True)
    alone, killed = args.directory / "alone", args.directory / "killed"
    argv = [*AVERAGING_RUN, "--epochs", str(args.epochs), "--run_dir", str(alone)]
    assert run(argv, args.directory / "alone.log") == 0, (args.directory / "alone.log").read_text()
    places = train_killed(killed, args.epochs, args.kills, random.Random(args.seed))
    assert_same(killed, alone)
    found = {"arrays": len(numbers(killed)), "rows": len(read_rows(killed))}
    print(json.dumps(found | {"killed": dict(places.most_common())}))


if __name__ == "__main__":
    main()
