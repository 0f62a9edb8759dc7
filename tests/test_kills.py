"""A run that is killed (SIGKILL) again and again, at moments of all kinds, ends as one left alone, bit for bit."""

import collections
import contextlib
import json
import random
import shlex
import signal
import time

import pytest
from support import files
from support.commands import RESUME, TINY_RUN, assert_ended_well, ended, wait_until

from training import checkpoints

# Every kind of file, with a snapshot and a checkpoint every other step.
TRAINING = [*TINY_RUN, *shlex.split("--augment --ema_start unbiased --ema_power 0.1 --checkpoint_every 0.0001")]
MOMENTS = {  # patterns of what a process writes, and up to which time of writing it the moments go
    "config.json": 1,
    "tensorboard/*": 1,
    "metrics.jsonl": 2,
    "checkpoints/.new": 6,
    "checkpoints/.new/*": 6,
    "checkpoints/.new/SHA256SUMS": 6,
    "checkpoints/step-*": 6,
    "snapshots/.*.new": 6,
    "snapshots/step-*": 6,
}
LAST = ("predictions.npz", 1, 0)  # before summary.json is there
BUILDING = 3.0  # seconds, which building the graph takes at least


def draw_moment(draw):
    """(pattern, n, seconds): so long after the n-th time that it is written; without a pattern, after the start."""
    pattern = draw.choice([None, *MOMENTS])
    if pattern is None:
        return None, 0, draw.uniform(0, BUILDING)
    return pattern, draw.randint(1, MOMENTS[pattern]), draw.choice([0, draw.uniform(0, 0.1)])


def matching(directory, pattern):
    """What matches, as a set that has more elements once another file does, or one of them is written again."""
    found = set()
    for file in directory.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            found.add((file, file.stat().st_ino, file.stat().st_mtime_ns))
    return found


def kill_at(moment, directory, process):
    pattern, number, seconds = moment
    if pattern:
        before, seen = matching(directory, pattern), set()
        wait_until(lambda: seen.update(matching(directory, pattern) - before) or len(seen) >= number, process)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert ended(process).returncode == -signal.SIGKILL, "it ended before"


def check_after_kill(directory):
    """The newest checkpoint is whole, metrics.jsonl has whole lines alone, and says no more than that checkpoint.

    Returns:
      What the kill left behind: names of files that a whole run does not have, and "a row less" in metrics.jsonl.
    """
    rows, kept = files.read_rows(directory), []
    if found := checkpoints.list_checkpoints(directory):
        assert checkpoints.damage(found[-1]) is None
        kept = json.loads((found[-1] / "state.json").read_text())["rows"]
    assert rows == kept[: len(rows)]
    unfinished = [file.name for file in directory.rglob(".*") if file.name != ".lock"]
    return unfinished + ["a row less"] * (len(rows) == len(kept) - 1)


def of_run(directory):
    """What must be the same: names of files, rows and points of TensorBoard without timings, and every array."""
    names = {str(file.relative_to(directory)) for file in directory.rglob("*") if "events.out" not in file.name}
    shown = files.scalars(directory).items()
    curves = {curve: {tag: tags[tag] for tag in tags.keys() - files.TIMINGS} for curve, tags in shown}
    arrays = files.checkpoint_values(directory)
    for file in directory.rglob("*.npz"):
        arrays |= {f"{file.name} {name}": array for name, array in files.read_arrays(file).items()}
    return (names, files.rows_without_timings(directory), curves), arrays


def killed_and_alone(forked, path, argv, moments):
    """Trains a run that is not killed and one that is at these moments, started again each time as anyone would.

    Returns:
      What the kills left behind, counted.
    """
    alone, killed, left = path / "alone", path / "killed", collections.Counter()
    assert_ended_well(forked("train.py", *argv, "--run_dir", alone))
    for moment in moments:
        kill_at(moment, killed, forked.start(*go_on(killed, argv)))
        left.update(check_after_kill(killed))
    assert_ended_well(forked(*go_on(killed, argv)))
    (found, arrays), (expected, others) = of_run(killed), of_run(alone)
    assert found == expected
    files.assert_equal_arrays(arrays, others)
    print(len(arrays), "arrays;", left)
    return left


def go_on(directory, argv):
    return [*RESUME, directory] if (directory / "config.json").exists() else ["train.py", *argv, "--run_dir", directory]


def test_killed_run_ends_as_one_left_alone(forked, tmp_path):
    moments = [("config.json", 1, 0), ("checkpoints/.new/SHA256SUMS", 2, 0), ("metrics.jsonl", 2, 0)]
    killed_and_alone(forked, tmp_path, [*TRAINING, "--epochs", 2], moments)


@pytest.mark.slow
def test_run_killed_30_times_ends_as_one_left_alone(forked, tmp_path):
    draw = random.Random(0)
    moments = [(pattern, number, 0) for pattern, number in MOMENTS.items()]
    moments += [draw_moment(draw) for _ in range(29 - len(moments))]
    averages = "--epochs 36 --ema_decay 0.9 0.99 --ema_batch_stats raw averaged"
    left = killed_and_alone(forked, tmp_path, [*TRAINING, *averages.split()], [*moments, LAST])
    assert left[".new"]
