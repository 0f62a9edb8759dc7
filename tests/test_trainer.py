"""The trainer around the graph, through the command: what it evaluates, when it saves, and where a step ends."""

import shlex
import shutil

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.commands import EPOCH_STEPS, TINY_RUN, assert_one_sentence
from support.files import assert_equal_arrays, checkpoint_values, read_arrays, read_rows

import data
from training import checkpoints, synthetic


def test_every_classifier_is_evaluated_on_the_images_held_out(forked, tmp_path):
    """A second run trains on the same images and has those held out of the first for its test set."""
    averages = shlex.split("--ema_decay 0.9 --ema_batch_stats raw recomputed --epochs 1")
    held = ["--train_size", 256, "--validation_size", 64]
    result = forked("train.py", *TINY_RUN, *held, *averages, "--run_dir", tmp_path / "held")
    assert result.returncode == 0, result.stderr
    assert "held out" in result.stdout
    before = (
        "import data\nload = data.load\n"
        "def replaced(*args):\n"
        "    found = load(*args)\n"
        "    return data.Dataset(data.Split(*(a[:192] for a in found.train)),\n"
        "                        data.Split(*(a[192:] for a in found.train)), 'swapped')\n"
        "data.load = replaced\n"
    )
    result = forked("train.py", *TINY_RUN, *averages, "--run_dir", tmp_path / "tested", before=before)
    assert result.returncode == 0, result.stderr
    (row,), (other,) = read_rows(tmp_path / "held"), read_rows(tmp_path / "tested")
    assert row["validation"] == other["classifiers"]
    assert row["validation"].keys() == row["classifiers"].keys()
    assert "validation" not in other


@pytest.mark.parametrize(
    ("flags", "steps", "epochs"),
    [
        (["--checkpoint_every", "3"], [12, 15, 16], [1, 2]),
        (["--eval_every", "2"], [16], [2]),
        (["--epochs", "3", "--eval_every", "2"], [16, 24], [2, 3]),
        (["--checkpoint_every", "1e-9m", "--steps_per_run", "5"], [8, 13, 16], [1, 2]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and isinstance(value[0], str) else "",
)
def test_checkpoints_and_evaluations_come_when_they_are_asked_for(forked, tmp_path, flags, steps, epochs):
    result = forked("train.py", *TINY_RUN, "--epochs", 2, *flags, "--run_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert [row["epoch"] for row in read_rows(tmp_path / "run")] == epochs
    assert [int(path.name.removeprefix("step-")) for path in checkpoints.found(tmp_path / "run")] == steps


def test_snapshots_divide_each_epoch_and_the_last_is_the_average_of_the_end(forked, tmp_path):
    flags = ["--ema_power", "0.1", "--snapshots", "3", "--epochs", "2", "--run_dir", tmp_path / "run"]
    result = forked("train.py", *TINY_RUN, *flags)
    assert result.returncode == 0, result.stderr
    files = sorted((tmp_path / "run" / "snapshots").iterdir())
    steps = [epoch * EPOCH_STEPS + part * EPOCH_STEPS // 3 for epoch in (0, 1) for part in (1, 2, 3)]
    assert [file.name for file in files] == [f"step-{step:09d}.npz" for step in steps]
    last, values = read_arrays(files[-1]), checkpoint_values(tmp_path / "run")
    assert last.pop("updates") == 2 * EPOCH_STEPS
    shadows = {name.removeprefix("0.1/"): value for name, value in last.items()}
    assert len(shadows) == 30  # weights, gamma and beta of ten layers
    for name, shadow in shadows.items():
        assert (shadow != values[name]).any()
        assert any(shadow.tobytes() == value.tobytes() for other, value in values.items() if other.startswith(name))


def test_a_run_resumed_amid_an_epoch_ends_as_if_it_had_never_stopped(forked, tmp_path):
    directory = tmp_path / "run"
    flags = ["--epochs", 2, "--checkpoint_every", 3, "--run_dir", directory]
    assert forked("train.py", *TINY_RUN, *flags).returncode == 0
    values, rows = checkpoint_values(directory), read_rows(directory)
    amid, *later = checkpoints.found(directory)
    assert amid.name == "step-000000012"
    for checkpoint in later:
        shutil.rmtree(checkpoint)
    assert forked("train.py", "--resume", "--run_dir", directory).returncode == 0
    assert_equal_arrays(checkpoint_values(directory), values)
    measured = ("images_per_second", "seconds", "evaluation_seconds")
    for row, expected in zip(read_rows(directory), rows, strict=True):
        assert row | dict.fromkeys(measured) == expected | dict.fromkeys(measured)


def test_no_snapshot_is_kept_before_the_first_update(forked, tmp_path):
    flags = ["--ema_power", "0.1", "--snapshots", "4", "--ema_every", "3", "--epochs", "1"]
    assert forked("train.py", *TINY_RUN, *flags, "--run_dir", tmp_path / "run").returncode == 0
    files = {file.name: read_arrays(file)["updates"] for file in (tmp_path / "run" / "snapshots").iterdir()}
    assert files == {f"step-{step:09d}.npz": step // 3 for step in (4, 6, 8)}


def test_steps_per_run_changes_no_number(forked, finished_run, tmp_path):
    flags = ["--ema_decay", "0.90", "--epochs", "2", "--steps_per_run", "3", "--run_dir", tmp_path / "run"]
    result = forked("train.py", *TINY_RUN, *flags)
    assert result.returncode == 0, result.stderr
    assert_equal_arrays(checkpoint_values(tmp_path / "run"), checkpoint_values(finished_run[0]))


def test_training_that_is_not_finite_ends_in_one_sentence_that_its_log_holds_too(forked, tmp_path):
    result = forked("train.py", *TINY_RUN, "--epochs", 9, "--learning_rate", "1e38", "--run_dir", tmp_path / "run")
    assert_one_sentence(result, 1, "not finite for 10 steps in a row", "--learning_rate below 1e+38")
    assert "not finite for 10 steps in a row" in (tmp_path / "run" / "train.log").read_text()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_run_too_short_for_ten_such_steps_ends_so_too(forked, tmp_path):
    flags = ["--epochs", 2, "--train_size", 128, "--learning_rate", "1e38", "--run_dir", tmp_path / "run"]
    result = forked("train.py", *TINY_RUN, *flags)
    assert_one_sentence(result, 1, "not finite in any of the 4 steps since the last evaluation", "--learning_rate")
    assert [row["epoch"] for row in read_rows(tmp_path / "run")] == [1]  # whose first step was finite
    assert not (tmp_path / "run" / "summary.json").exists()


def test_skipped_steps_are_counted_and_told(forked, tmp_path):
    spoilt = (
        "import data, numpy as np, tensorflow.compat.v1 as tf\n"
        "at = data.Batches.at\n"
        "def spoil(self, step, *replica):\n"
        "    images, labels, seed = at(self, step, *replica)\n"
        "    return images * tf.where(tf.equal(step % 4, 1), np.nan, 0.0), labels, seed\n"
        "data.Batches.at = spoil\n"
    )
    argv = [*TINY_RUN, "--learning_rate", "1e-45", "--epochs", 2, "--run_dir", tmp_path / "run"]
    result = forked("train.py", *argv, before=spoilt)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 of 8 steps had no finite loss and gradients") == 2
    assert [row["skipped_steps"] for row in read_rows(tmp_path / "run")] == [2, 2]
    # Of black images and untrained weights every class is as likely: the mean is over the steps that count.
    # All logits are equal, which is the answer "class 0".
    labels = synthetic.load()["train"][1][:256]
    for epoch, row in enumerate(read_rows(tmp_path / "run")):
        with tf.Graph().as_default(), tf.Session() as session:
            steps = labels[session.run(data.epoch_order(0, epoch, 256))].reshape(EPOCH_STEPS, -1)
        counted = steps[[step for step in range(EPOCH_STEPS) if step % 4 != 1]]
        assert row["train_loss"] == pytest.approx(np.log(10), rel=1e-4)
        assert row["train_accuracy"] == pytest.approx((counted == 0).mean(), rel=1e-6)
