"""The trainer around the graph, through the command: what it evaluates, when it saves, and where a step ends."""

import shlex
import shutil

import numpy as np
from support.commands import EPOCH_STEPS, RESUME, TINY_RUN, assert_ended_well, assert_one_sentence
from support.files import assert_equal_arrays, checkpoint_values, read_arrays, read_rows, rows_without_timings

import data
from analysis.restored_run import RestoredRun
from training import checkpoints


def steps_of(files):
    return [int(file.stem.removeprefix("step-")) for file in sorted(files)]


def test_every_classifier_is_evaluated_on_the_images_held_out(forked, tmp_path):
    """As by its logits on the last of the training images, in a network that is restored from the checkpoint."""
    directory = tmp_path / "run"
    argv = [*TINY_RUN, *shlex.split("--train_size 480 --validation_size 64 --epochs 1 --checkpoint_every 0.0001")]
    averages = shlex.split("--ema_decay 0.9 --ema_batch_stats raw recomputed")
    assert_ended_well(forked("train.py", *argv, *averages, "--run_dir", directory))
    assert steps_of(checkpoints.list_checkpoints(directory)) == [
        10,
        13,
    ]  # a session.run is of ten steps, and of one epoch
    (row,) = read_rows(directory)
    images, labels = (array[-64:] for array in data.load("synthetic", train_size=480).train)
    run = RestoredRun(directory)
    for label in run.labels:
        run.use(label)
        assert row["validation"][str(label)] == np.mean(run.logits(images).argmax(1) == labels)
    assert row["validation"].keys() == row["classifiers"].keys() == set(map(str, run.labels))


def test_evaluations_checkpoints_and_snapshots_come_when_they_should(forked, tmp_path):
    """A checkpoint after every session.run, which ends at epochs and snapshots; and going on amid an epoch."""
    directory = tmp_path / "run"
    argv = ["--epochs", 3, "--eval_every", 2, "--checkpoint_every", "0.0001", "--ema_power", "0.1"]
    assert_ended_well(forked("train.py", *TINY_RUN, *argv, "--run_dir", directory))
    assert [row["epoch"] for row in read_rows(directory)] == [2, 3]
    assert steps_of(checkpoints.list_checkpoints(directory)) == [20, 22, 24]
    files = list((directory / "snapshots").iterdir())
    assert steps_of(files) == [*range(2, 3 * EPOCH_STEPS + 1, EPOCH_STEPS // 4)]
    arrays = {file.name: read_arrays(file) for file in sorted(files)}
    assert [snapshot["updates"] for snapshot in arrays.values()] == steps_of(files)

    values, rows = checkpoint_values(directory), rows_without_timings(directory)
    last = {name.removeprefix("0.1/"): array.tobytes() for name, array in arrays["step-000000024.npz"].items()}
    assert len(last.keys() & values.keys()) == len(last) - 1 == 30  # weights, gamma and beta of ten layers
    for name in last.keys() & values.keys():  # each is one of its shadows
        assert last[name] in [values[other].tobytes() for other in values if other.startswith(f"{name}/")]

    for checkpoint in checkpoints.list_checkpoints(directory)[1:]:
        shutil.rmtree(checkpoint)
    assert_ended_well(forked(*RESUME, directory))
    assert rows_without_timings(directory) == rows
    assert_equal_arrays(checkpoint_values(directory), values)
    for file in (directory / "snapshots").iterdir():
        assert_equal_arrays(read_arrays(file), arrays[file.name])


def test_a_run_whose_last_weights_are_not_finite_says_so_and_so_does_what_reads_them(forked, tmp_path):
    directory = tmp_path / "run"
    argv = [*TINY_RUN, "--epochs", 1, "--learning_rate", "1e30", "--run_dir", directory]
    for command in (["train.py", *argv], [*RESUME, directory], ["evaluate.py", "table", "--run_dir", directory]):
        assert_one_sentence(forked(*command), 1, "logits", "not finite", "--learning_rate")
    assert not (directory / "predictions.npz").exists()


def test_steps_that_are_not_finite_are_counted_and_end_the_run_in_one_sentence(forked, tmp_path):
    """float32 cannot hold the weights that such a rate leads to: the first step is the last one that is finite."""
    directory = tmp_path / "run"
    argv = ["--epochs", 2, "--train_size", 128, "--learning_rate", "1e38", "--run_dir", directory]
    result = forked("train.py", *TINY_RUN, *argv)
    assert_one_sentence(result, 1, "not finite", "4 steps", "--learning_rate")
    (row,) = read_rows(directory)
    assert (row["epoch"], row["skipped_steps"]) == (1, 3)
    assert "3 of 4 steps" in result.stdout
    assert row["train_accuracy"] * 32 == int(row["train_accuracy"] * 32)  # of the batch of the one step that counts
    assert 2 < row["train_loss"] < 4  # its loss, with the initial weights
    assert result.stderr.removeprefix("train.py: ") in (directory / "train.log").read_text()
    assert not (directory / "summary.json").exists()
