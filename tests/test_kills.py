"""A run that is killed (SIGKILL) again and again, at moments of all kinds, ends as one left alone, bit for bit."""

import collections
import json
import random
import shlex
import signal
import time

import pytest
from support.commands import RESUME, TINY_RUN, assert_ended_well, ended, wait_until
from support.files import (
    TIMINGS,
    assert_equal_arrays,
    checkpoint_values,
    read_arrays,
    read_rows,
    rows_without_timings,
    scalars,
)

from training import checkpoints

AVERAGING_RUN = [  # of every kind of file, with a checkpoint and a snapshot every other step
    *TINY_RUN,
    *shlex.split(
        "--augment --ema_decay 0.9 0.99 --ema_start unbiased --ema_batch_stats raw averaged --ema_power 0.1 "
        "--checkpoint_every 0.0001"
    ),
]
ONCE = ("config.json", "metrics.jsonl", "tensorboard/*")  # written as a process begins
OFTEN = (
    "checkpoints/.new",
    "checkpoints/.new/*",
    "checkpoints/.new/SHA256SUMS",
    "checkpoints/step-*",
    "metrics.jsonl",
    "snapshots/.*.new",
    "snapshots/step-*",
)
LAST = ("predictions.npz", 1, 0)  # before summary.json is there
BUILDING = 3.0  # seconds, which building the graph takes at least


def versions(directory, pattern):
    """What matches the pattern: a set that differs once another file does, or one of them is written again."""
    found = set()
    for file in directory.glob(pattern):
        try:
            found.add((file, file.stat().st_ino, file.stat().st_mtime_ns))
        except FileNotFoundError:
            continue  # gone meanwhile
    return found


def draw_moment(draw):
    """(pattern, n, seconds): so long after the n-th new version of what matches; without a pattern, after the start."""
    if draw.random() < 0.1:
        return None, 0, draw.uniform(0, BUILDING)
    pattern = draw.choice(ONCE + OFTEN)
    number = draw.randint(1, 6) if pattern in OFTEN and pattern != "metrics.jsonl" else 1
    return pattern, number, draw.choice([0, draw.uniform(0, 0.1)])


def kill_at(moment, directory, process):
    pattern, number, seconds = moment
    if pattern:
        seen = before = versions(directory, pattern)

        def often_enough():
            nonlocal seen
            seen = seen | versions(directory, pattern)
            return len(seen) - len(before) >= number

        wait_until(often_enough, process)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert ended(process).returncode == -signal.SIGKILL, "it ended before"


def train_killed(forked, directory, epochs, moments):
    """Trains, killed at each of the moments and started again, to the end.

    Returns:
      What the kills left behind: Counter of the names of files that a whole run does not have, and of "row missing".
    """
    left = collections.Counter()

    def start():
        """The command that anyone would type: --resume once there is a run, else the same again."""
        resumed = (directory / "config.json").exists()
        argv = [*RESUME, directory] if resumed else ["train.py", *AVERAGING_RUN, "--run_dir", directory]
        return forked.start(*argv, "--epochs", epochs)

    for moment in moments:
        kill_at(moment, directory, start())
        left += check_after_kill(directory)
    assert_ended_well(ended(start()))
    return left


def check_after_kill(directory):
    """The newest checkpoint is whole, metrics.jsonl has whole lines alone, and says no more than that checkpoint."""
    rows = read_rows(directory)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    kept = []
    if found := checkpoints.found(directory):
        assert checkpoints.damage(found[-1]) is None
        kept = json.loads((found[-1] / "state.json").read_text())["rows"]
    assert rows == kept[: len(rows)]
    assert len(kept) - len(rows) <= 1 or not rows  # a killed process may not have written them again yet
    unfinished = [file.name for file in directory.rglob(".*") if file.name != ".lock"]
    return collections.Counter(unfinished + ["row missing"] * (len(kept) > len(rows)))


def assert_same(directory, reference):
    """The same files and, but for the time that things took, the same in them: every bit of every array."""
    names, arrays, curves = [], [], []
    for path in (directory, reference):
        names.append({str(file.relative_to(path)) for file in path.rglob("*") if "events.out" not in file.name})
        snapshots = sorted((path / "snapshots").iterdir())
        files = {str(file.relative_to(path)): read_arrays(file) for file in [path / "predictions.npz", *snapshots]}
        found = {f"{file} {name}": array for file, values in files.items() for name, array in values.items()}
        arrays.append(found | checkpoint_values(path))
        shown = scalars(path).items()
        curves.append({curve: {tag: tags[tag] for tag in tags if tag not in TIMINGS} for curve, tags in shown})
    assert names[0] == names[1]
    assert_equal_arrays(*arrays)
    assert curves[0] == curves[1]
    assert rows_without_timings(directory) == rows_without_timings(reference)


def killed_and_alone(forked, path, epochs, moments):
    """Trains a run that is killed at these moments and one left alone; what the kills left behind."""
    alone = forked("train.py", *AVERAGING_RUN, "--epochs", epochs, "--run_dir", path / "alone")
    assert_ended_well(alone)
    left = train_killed(forked, path / "killed", epochs, moments)
    assert_same(path / "killed", path / "alone")
    assert len(read_rows(path / "killed")) == epochs
    return left


def test_killed_run_ends_as_one_left_alone(forked, tmp_path):
    moments = [("config.json", 1, 0), ("checkpoints/.new/SHA256SUMS", 2, 0), ("checkpoints/step-*", 3, 0), LAST]
    left = killed_and_alone(forked, tmp_path, 2, moments)
    assert left


@pytest.mark.slow
def test_run_killed_30_times_ends_as_one_left_alone(forked, tmp_path):
    draw = random.Random(0)
    moments = [(pattern, 1, 0) for pattern in dict.fromkeys(ONCE + OFTEN)]
    moments += [draw_moment(draw) for _ in range(29 - len(moments))]
    left = killed_and_alone(forked, tmp_path, 24, [*moments, LAST])
    print(left)
    assert left[".new"] and left["row missing"]
