"""The trainer, by its command: evaluations, checkpoints, snapshots, skipped steps and memory."""

import ctypes
import functools
import itertools
import shlex
import time

import numpy as np
import pytest
from support.commands import EPOCH_STEPS, RESUME, TINY_RUN, assert_one_sentence, assert_success
from support.files import checkpoint_values, read_arrays, read_rows

import data
from analysis.restored_run import RestoredRun
from training import checkpoints


def steps_of(paths):
    return [int(path.stem.removeprefix("step-")) for path in sorted(paths)]


def test_validation_accuracies_equal_restored_run(forked, tmp_path):
    directory = tmp_path / "run"
    argv = [*TINY_RUN, *shlex.split("--train_size 480 --validation_size 64 --epochs 1 --checkpoint_every 0.0001")]
    averages = shlex.split("--ema_decay 0.9 --ema_batch_stats raw recomputed")
    assert_success(forked("train.py", *argv, *averages, "--run_dir", directory))
    assert steps_of(checkpoints.list_checkpoints(directory)) == [10, 13]  # session.runs of ten steps within an epoch
    (row,) = read_rows(directory)
    images, labels = (array[-64:] for array in data.load("synthetic", train_size=480).train)
    run = RestoredRun(directory)
    for label in run.labels:
        run.use(label)
        assert row["validation"][str(label)] == np.mean(run.logits(images).argmax(1) == labels)
    assert row["validation"].keys() == row["classifiers"].keys() == set(map(str, run.labels))


def test_evaluations_checkpoints_and_snapshots_are_regular(forked, tmp_path):
    directory = tmp_path / "run"
    argv = ["--epochs", 3, "--eval_every", 2, "--checkpoint_every", "0.0001", "--ema_power", "0.1"]
    assert_success(forked("train.py", *TINY_RUN, *argv, "--run_dir", directory))
    assert [row["epoch"] for row in read_rows(directory)] == [2, 3]
    assert steps_of(checkpoints.list_checkpoints(directory)) == [20, 22, 24]
    snapshots = sorted((directory / "snapshots").iterdir())
    assert steps_of(snapshots) == [*range(2, 3 * EPOCH_STEPS + 1, EPOCH_STEPS // 4)]
    assert [read_arrays(file)["updates"] for file in snapshots] == steps_of(snapshots)

    values = checkpoint_values(directory)
    shadows = {name.removeprefix("0.1/"): array.tobytes() for name, array in read_arrays(snapshots[-1]).items()}
    assert len(shadows.keys() & values.keys()) == len(shadows) - 1 == 30  # weights, gamma and beta of ten layers
    for name in shadows.keys() & values.keys():
        assert shadows[name] in [value.tobytes() for key, value in values.items() if key.startswith(f"{name}/")]


def test_non_finite_logits_are_refused(forked, tmp_path):
    directory = tmp_path / "run"
    argv = [*TINY_RUN, "--epochs", 1, "--learning_rate", "1e30", "--run_dir", directory]
    for command in (["train.py", *argv], [*RESUME, directory], ["evaluate.py", "table", "--run_dir", directory]):
        assert_one_sentence(forked(*command), 1, "--learning_rate")
    assert not (directory / "predictions.npz").exists()


def test_skipped_steps_are_counted(forked, tmp_path):
    """After the first step at this rate float32 cannot hold the weights: all later steps are skipped."""
    directory = tmp_path / "run"
    argv = ["--epochs", 2, "--train_size", 128, "--learning_rate", "1e38", "--run_dir", directory]
    result = forked("train.py", *TINY_RUN, *argv)
    assert_one_sentence(result, 1, "--learning_rate")
    (row,) = read_rows(directory)
    assert (row["epoch"], row["skipped_steps"]) == (1, 3)
    assert row["train_accuracy"] * 32 == int(row["train_accuracy"] * 32)  # of the one finite step
    assert 2 < row["train_loss"] < 4  # with the initial weights
    assert result.stderr.removeprefix("train.py: ") in (directory / "train.log").read_text()
    assert not (directory / "summary.json").exists()


class Mallinfo2(ctypes.Structure):
    _fields_ = [("sizes", ctypes.c_size_t * 10)]


def write_allocated(directory, file):
    """Writes one line per row of the run in this process: the fewest bytes allocated by malloc meanwhile."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    with open(file, "w") as output:
        for row in itertools.count(1):
            least = float("inf")
            while len(read_rows(directory)) < row:
                sizes = mallinfo2().sizes
                least = min(least, sizes[4] + sizes[7])  # mapped, and in the arenas
                time.sleep(0.02)
            print(least, file=output, flush=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_memory_is_flat_over_20_epochs(forked, tmp_path):
    # The resident size would hide a small leak: the allocator takes whole arenas.
    argv = [*TINY_RUN, "--train_size", 3200, "--epochs", 21, "--run_dir", tmp_path / "run"]
    thread = functools.partial(write_allocated, tmp_path / "run", tmp_path / "bytes")
    assert_success(forked("train.py", *argv, thread=thread))
    megabytes = np.loadtxt(tmp_path / "bytes")[1:20] / 1e6
    slope = np.polyfit(np.arange(len(megabytes)), megabytes, 1)[0]
    print(f"{megabytes.mean():.1f} MB in use, {slope:+.4f} MB per evaluation")
    assert slope < 0.02
