"""An interrupted and resumed run equals an uninterrupted one, bit for bit."""

import collections
import contextlib
import random
import shlex
import shutil
import signal
import time
from functools import partial

import pytest
from support import files
from support.commands import EPOCH_STEPS, RESUME, TINY_RUN, assert_one_sentence, assert_success, finish, wait_until
from support.commands import resume_command as command_for
from support.damage import flip_bit

from training import checkpoints

# Every kind of file, with a snapshot and a checkpoint every other step.
TRAINING = [*TINY_RUN, *shlex.split("--augment --ema_start unbiased --ema_power 0.1 --checkpoint_every 0.0001")]
AVERAGES = shlex.split("--ema_decay 0.9 --ema_batch_stats recomputed")
EPOCHS = 4
MIRRORED = ["--strategy", "mirrored", "--replicas", "2"]


def saved_results(directory):
    """Returns (files, rows and TensorBoard points without timings) and {name: array} of a finished run."""
    visible = [file for file in directory.rglob("*") if not file.name.startswith(".") and "events.out" not in file.name]
    names = {str(file.relative_to(directory)) for file in visible}
    curves = files.read_events(directory)
    for tag in files.TIMINGS & curves["train"].keys():
        del curves["train"][tag]
    arrays = files.checkpoint_values(directory)
    for file in directory.rglob("*.npz"):
        arrays |= {f"{file.name} {name}": array for name, array in files.read_arrays(file).items()}
    return (names, files.rows_without_timings(directory), curves), arrays


def assert_same_results(directory, expected):
    (found, arrays), (expected_found, expected_arrays) = saved_results(directory), saved_results(expected)
    assert found == expected_found
    assert {"predictions.npz labels", "global_step", "step-000000002.npz updates"} <= arrays.keys()
    files.assert_equal_arrays(arrays, expected_arrays)


# ---------------------------------------------------------------------------------------------------------------
# Ways to interrupt a run in `directory`; each returns when its process has ended


def stop_with_signal(number, forked, directory, argv, uninterrupted):
    process = forked.start("train.py", *argv, "--epochs", 1000, "--run_dir", directory)
    files.wait_for_row(directory, process)
    process.send_signal(number)
    result = finish(process)
    if number == signal.SIGKILL:
        assert result.returncode == -number
    else:
        assert_one_sentence(result, 128 + number, command_for(directory))


def stop_during_evaluation(forked, directory, argv, uninterrupted):
    process = forked.start("train.py", *argv, "--epochs", 1000, "--run_dir", directory)
    snapshot = directory / "snapshots" / f"step-{2 * EPOCH_STEPS:09d}.npz"  # written just before the evaluation
    wait_until(snapshot.exists, process)
    process.send_signal(signal.SIGTERM)
    assert_one_sentence(finish(process), 143, f"at step {2 * EPOCH_STEPS}", command_for(directory))
    assert len(files.read_rows(directory)) == 1


def fill_disk(forked, directory, argv, uninterrupted):
    shutil.copytree(uninterrupted, directory)
    for checkpoint in checkpoints.list_checkpoints(directory)[1:]:
        shutil.rmtree(checkpoint)
    before = files.contents(directory / "checkpoints")
    result = forked(*RESUME, directory, file_size=50_000)
    assert_one_sentence(result, 1, directory / "checkpoints", command_for(directory))
    assert files.contents(directory / "checkpoints") == before


def corrupt_newest_checkpoint(forked, directory, argv, uninterrupted):
    shutil.copytree(uninterrupted, directory)
    flip_bit(checkpoints.list_checkpoints(directory)[-1] / "model.data-00000-of-00001")


INTERRUPTIONS = {
    "SIGTERM": partial(stop_with_signal, signal.SIGTERM),
    "SIGINT": partial(stop_with_signal, signal.SIGINT),
    "SIGUSR1": partial(stop_with_signal, signal.SIGUSR1),
    "SIGKILL": partial(stop_with_signal, signal.SIGKILL),
    "full disk": fill_disk,
    "evaluation": stop_during_evaluation,
    "corrupt": corrupt_newest_checkpoint,
    "mirrored": partial(stop_with_signal, signal.SIGKILL),
}
CASES = [how for how in INTERRUPTIONS if how in ("SIGKILL", "full disk", "evaluation", "corrupt")]
CASES += [pytest.param(how, marks=pytest.mark.slow) for how in INTERRUPTIONS if how not in CASES]


@pytest.fixture(scope="module")
def train(forked, tmp_path_factory):
    """Function: returns the directory of the uninterrupted run with some flags."""
    directories = {}

    def train(argv):
        if (key := " ".join(argv)) not in directories:
            directories[key] = tmp_path_factory.mktemp("uninterrupted") / "run"
            assert_success(forked("train.py", *argv, "--epochs", EPOCHS, "--run_dir", directories[key]))
        return directories[key]

    return train


@pytest.mark.parametrize("how", CASES)
def test_resumed_run_equals_uninterrupted(forked, train, tmp_path, how):
    directory, argv = tmp_path / "run", [*TRAINING, *AVERAGES]
    if how == "mirrored":
        argv += MIRRORED
    uninterrupted = train(argv)
    INTERRUPTIONS[how](forked, directory, argv, uninterrupted)
    result = forked(*RESUME, directory, "--epochs", EPOCHS)
    assert_success(result)
    assert ("is corrupt" in result.stdout) == (how == "corrupt")
    assert_same_results(directory, uninterrupted)


def test_unwritable_predictions_are_written_later(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    predictions = directory / "predictions.npz"
    result = forked(*RESUME, directory, file_size=predictions.stat().st_size - 1)
    assert_one_sentence(result, 1, predictions, command_for(directory))
    assert not predictions.exists()
    assert_success(forked(*RESUME, directory))
    assert (finished_run[0] / "predictions.npz").read_bytes() == predictions.read_bytes()


# ---------------------------------------------------------------------------------------------------------------
# Kills at random moments

MOMENTS = {  # patterns of files that a process writes, and the largest number of writes to wait for
    "config.json": 1,
    "tensorboard/*": 1,
    "metrics.jsonl": 2,
    "checkpoints/.new": 6,
    "checkpoints/.new/*": 12,
    "checkpoints/step-*": 6,
    "snapshots/.*": 6,
    "snapshots/step-*": 6,
}
LAST_MOMENT = ("predictions.npz", 1, 0)


def draw_moment(draw):
    """Returns (pattern, n, seconds): this long after the n-th write."""
    pattern = draw.choice(list(MOMENTS))
    return pattern, draw.randint(1, MOMENTS[pattern]), draw.choice([0, draw.uniform(0, 0.1)])


def list_versions(directory, pattern):
    """Returns a set that grows whenever a matching file is written."""
    versions = set()
    for file in directory.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            versions.add((file, file.stat().st_ino, file.stat().st_mtime_ns))
    return versions


def kill_at(moment, directory, process):
    pattern, number, seconds = moment
    before, seen = list_versions(directory, pattern), set()
    wait_until(lambda: seen.update(list_versions(directory, pattern) - before) or len(seen) >= number, process)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    assert finish(process).returncode == -signal.SIGKILL, "the run ended before"


def check_after_kill(directory):
    """Checks that metrics.jsonl has no row that the newest checkpoint lacks; returns the names of unfinished files."""
    rows, saved_rows = files.read_rows(directory), []
    if step := checkpoints.last_step(directory):
        values, state = checkpoints.read(directory)
        assert values["global_step"] == step
        saved_rows = state["rows"]
    assert rows == saved_rows[: len(rows)]
    return [file.name for file in directory.rglob(".*") if file.name != ".lock"]


@pytest.mark.slow
def test_30_kills_change_nothing(forked, tmp_path):
    argv = [*TRAINING, *shlex.split("--epochs 36 --ema_decay 0.9 0.99 --ema_batch_stats raw averaged")]
    uninterrupted, directory, left = tmp_path / "uninterrupted", tmp_path / "run", collections.Counter()
    assert_success(forked("train.py", *argv, "--run_dir", uninterrupted))

    def next_command():
        started = (directory / "config.json").exists()
        return [*RESUME, directory] if started else ["train.py", *argv, "--run_dir", directory]

    draw = random.Random(0)
    moments = [(pattern, number, 0) for pattern, number in MOMENTS.items()]
    moments += [draw_moment(draw) for _ in range(29 - len(moments))]
    for moment in [*moments, LAST_MOMENT]:
        kill_at(moment, directory, forked.start(*next_command()))
        left.update(check_after_kill(directory))
    assert_success(forked(*next_command()))
    assert_same_results(directory, uninterrupted)
    assert left[".new"]
