"""Kills a run (SIGKILL) at random moments and resumes it, until it is done; compares it with one that was left alone.

    PYTHONPATH=. python tests/killing.py --kills 30 --seed 0 /tmp/killed

A moment is the n-th line of runs.py and loop.py executed, or a little later, inside native code, or while the graph is
still being built. Processes are forked from this one after TensorFlow's import, which would take most of the time
otherwise. Prints where the run was killed, as JSON.
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

import forking
import numpy as np
import tensorflow.compat.v1 as tf

import runs

ROOT = Path(__file__).parent.parent
TRAINING = shlex.split(
    "--dataset synthetic --width 0.05 --train_size 256 --test_size 64 --batch_size 32 --device cpu --precision float32 "
    "--augment --ema_decay 0.9 0.99 --ema_start unbiased --ema_batch_stats raw averaged --ema_power 0.1 --snapshots 2 "
    "--checkpoint_every 3 --steps_per_run 2"
)
TIMINGS = {"seconds", "images_per_second", "evaluation_seconds"}
WATCHED = {str(ROOT / name) for name in ("runs.py", "loop.py")}
LINES = 1000  # a moment comes within so many lines, about one epoch of TRAINING
BUILDING = 1.5  # seconds, which building the graph takes at least
RARE = (  # moments that chance may miss: (function, n), before the n-th line executed in the function
    ("open_directory", 6),
    ("save_checkpoint", 12),  # not renamed yet
    ("append", 4),
    ("save_checkpoint", 24),  # renamed, the older ones still there
    ("evaluate", 7),
)


def run(argv, log, before=lambda: None):
    return forking.run("train.py", argv, log, log, before)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(seconds):
    timer = threading.Timer(seconds, kill)
    timer.daemon = True
    timer.start()


def after_lines(lines, report, function=None, then=kill):
    """Has `then` done before the `lines`-th line of the watched files, or of one function; the place goes to `report`.

    Returns:
      What makes a process do so.
    """

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename not in WATCHED or function not in (None, frame.f_code.co_name):
            return None
        if event == "line":
            lines -= 1
            if lines == 0:
                report.write_text(f"{Path(frame.f_code.co_filename).name} {frame.f_code.co_name}")
                then()
        return trace

    return lambda: when_opened(lambda: sys.settrace(trace))


def when_opened(action):
    """Has `action` done just before the run directory is opened, when the graph is built."""
    open_directory = runs.open_directory

    def opened(*args):
        action()
        return open_directory(*args)

    runs.open_directory = opened


def draw_moment(random, report):
    kind, line = random.choices(["at", "soon after", "start"], [5, 4, 1])[0], random.randrange(1, LINES)
    if kind == "at":
        return after_lines(line, report)
    if kind == "soon after":
        delay = random.uniform(0, 0.1)
        return after_lines(line, report, then=lambda: kill_after(delay))
    delay = random.uniform(0, BUILDING)
    return lambda: kill_after(delay)


def train_killed(directory, epochs, kills, random, rare=RARE):
    """Trains in `directory`, killed `kills` times and resumed each time; asserts what must hold after every kill.

    The moments are the `rare` ones, random ones, and the end of the run.

    Returns:
      Where it was killed, or just before: Counter of "<file> <function>", or "start".
    """
    argv = [*TRAINING, "--epochs", str(epochs), "--run_dir", str(directory)]
    log, report = directory.with_suffix(".log"), directory.with_suffix(".where")
    places = collections.Counter()
    moments = [after_lines(count, report, function) for function, count in rare[: kills - 1]]
    moments += [draw_moment(random, report) for _ in range(kills - len(moments) - 1)]
    moments += [after_lines(4, report, "finish")]
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
    if found := runs.checkpoints(directory):
        assert runs.damage(found[-1]) is None
        kept = json.loads((found[-1] / "state.json").read_text())["rows"]
        assert rows == kept[: len(rows)]
        assert len(kept) - len(rows) <= 1
    else:
        assert rows == []


def read_rows(directory):
    file = directory / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def numbers(directory):
    """All that a run computed, timings aside: what must be the same, bit for bit."""
    newest = runs.checkpoints(directory)[-1]
    reader = tf.train.load_checkpoint(str(newest / "model"))
    arrays = {f"variable {name}": reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    for file in [directory / "predictions.npz", *sorted((directory / "snapshots").iterdir())]:
        with np.load(file, allow_pickle=False) as saved:
            arrays |= {f"{file.name} {name}": saved[name] for name in saved}
    rows = [{name: value for name, value in row.items() if name not in TIMINGS} for row in read_rows(directory)]
    names = sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if "events.out" not in file.name)
    return arrays, rows, names


def assert_same(directory, reference):
    (arrays, rows, names), (expected_arrays, expected_rows, expected_names) = numbers(directory), numbers(reference)
    assert arrays.keys() == expected_arrays.keys()
    for name, array in arrays.items():
        assert array.dtype == expected_arrays[name].dtype, name
        assert array.tobytes() == expected_arrays[name].tobytes(), name
    assert rows == expected_rows
    assert names == expected_names
    assert events(directory) == events(reference)


def events(directory):
    """Every scalar of the TensorBoard events, in order."""
    return {
        file.parent.name: [
            (event.step, value.tag, value.simple_value)
            for event in tf.train.summary_iterator(str(file))
            for value in event.summary.value
        ]
        for file in directory.glob("tensorboard/*/*")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="where to train; must not exist")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.directory.mkdir(parents=True)
    alone, killed = args.directory / "alone", args.directory / "killed"
    argv = [*TRAINING, "--epochs", str(args.epochs), "--run_dir", str(alone)]
    assert run(argv, args.directory / "alone.log") == 0, (args.directory / "alone.log").read_text()
    places = train_killed(killed, args.epochs, args.kills, random.Random(args.seed))
    assert_same(killed, alone)
    arrays, rows, _ = numbers(killed)
    print(json.dumps({"arrays": len(arrays), "rows": len(rows), "killed": dict(places.most_common())}))


if __name__ == "__main__":
    main()
