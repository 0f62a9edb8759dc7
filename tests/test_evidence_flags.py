"""What shapes an experiment: the cooldown of the learning rate, images held out, wrong labels, smoothed targets."""

import json
import shlex

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from conftest import TINY_RUN

import data
import flags as command_line
import runs
import train
from errors import UserError


def checkpoint_values(directory):
    reader = tf.train.load_checkpoint(str(runs.checkpoints(directory)[-1] / "model"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("cooldown", [1, 3, 5])
def test_the_learning_rate_falls_linearly_to_0_over_the_last_steps(session, cooldown):
    step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
    rate = train.learning_rate(0.25, step, 5, cooldown)
    session.run(step.initializer)
    for done in range(5):
        expected = 0.25 * min(1, (5 - done) / cooldown)
        assert session.run(rate()) == pytest.approx(expected, rel=1e-6)
        session.run(step.assign_add(1))
    assert session.run(rate()) == 0
    assert train.learning_rate(0.25, step, 5, 0) == 0.25


def test_a_trunk_resumed_with_a_cooldown_equals_a_run_that_had_it_from_the_start(forked, tmp_path):
    whole, trunk = tmp_path / "whole", tmp_path / "trunk"
    assert forked("train.py", *TINY_RUN, "--epochs", 3, "--lr_cooldown", 1, "--run_dir", whole).returncode == 0
    assert forked("train.py", *TINY_RUN, "--epochs", 2, "--run_dir", trunk).returncode == 0
    result = forked("train.py", "--resume", "--run_dir", trunk, "--epochs", 3, "--lr_cooldown", 1)
    assert result.returncode == 0, result.stderr
    expected, got = checkpoint_values(whole), checkpoint_values(trunk)
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(value, got[name], err_msg=name)
    constant = tmp_path / "constant"
    assert forked("train.py", *TINY_RUN, "--epochs", 3, "--run_dir", constant).returncode == 0
    other = checkpoint_values(constant)
    assert any((other[name] != expected[name]).any() for name in expected if name.endswith("weights"))
    for flags in (["--epochs", 4], ["--epochs", 4, "--lr_cooldown", 0], ["--lr_cooldown", 2]):
        result = forked("train.py", "--resume", "--run_dir", trunk, *flags)
        assert result.returncode == 2
        assert "--epochs 3 --lr_cooldown 1" in result.stderr
    result = forked("train.py", "--resume", "--run_dir", constant, "--epochs", 4, "--lr_cooldown", 2)
    assert result.returncode == 2
    assert "lowers the learning rate from epoch 2 on" in result.stderr


def test_a_cooldown_longer_than_the_run_is_refused(forked, tmp_path):
    result = forked("train.py", *TINY_RUN, "--epochs", 2, "--lr_cooldown", 3, "--run_dir", tmp_path / "run")
    assert result.returncode == 2
    assert "--lr_cooldown 3 is longer" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_last_training_images_are_held_out(random):
    split = data.draw_synthetic(10, seed=1)
    dataset = data.hold_out(data.Dataset(split, split, "drawn"), 3)
    np.testing.assert_array_equal(dataset.train.images, split.images[:7])
    np.testing.assert_array_equal(dataset.validation.images, split.images[7:])
    np.testing.assert_array_equal(dataset.validation.labels, split.labels[7:])
    np.testing.assert_array_equal(dataset.test.images, split.images)
    assert data.hold_out(dataset, 0) is dataset
    with pytest.raises(UserError, match="--validation_size 10"):
        data.hold_out(data.Dataset(split, split, "drawn"), 10)


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
    (row,), (other,) = rows(tmp_path / "held"), rows(tmp_path / "tested")
    assert row["validation"] == other["classifiers"]
    assert row["validation"].keys() == row["classifiers"].keys()
    assert "validation" not in other


def test_label_noise_replaces_a_share_of_the_labels_by_other_classes():
    labels = np.random.default_rng(5).integers(0, 10, 20_000)
    noisy = data.replace_labels(labels, 0.4, seed=3)
    wrong = noisy != labels
    assert wrong.sum() == 8000
    counts = np.bincount((noisy[wrong] - labels[wrong]) % 10, minlength=10)
    assert counts[0] == 0
    assert (abs(counts[1:] - 8000 / 9) < 5 * np.sqrt(8000 / 9)).all()
    np.testing.assert_array_equal(noisy, data.replace_labels(labels, 0.4, seed=3))
    assert (noisy != data.replace_labels(labels, 0.4, seed=4)).any()
    fewer = data.replace_labels(labels, 0.1, seed=3)
    np.testing.assert_array_equal(fewer[fewer != labels], noisy[fewer != labels])
    np.testing.assert_array_equal(data.replace_labels(labels, 0.0, seed=3), labels)
    assert (data.replace_labels(labels, 1.0, seed=3) != labels).all()


def test_label_noise_touches_the_training_labels_alone():
    argv = [*TINY_RUN, "--validation_size", "64", "--seed", "4"]
    clean = train.training_data(command_line.parse(argv))
    noisy = train.training_data(command_line.parse([*argv, "--label_noise", "0.25"]))
    assert (noisy.train.labels != clean.train.labels).sum() == 48
    np.testing.assert_array_equal(noisy.train.images, clean.train.images)
    np.testing.assert_array_equal(noisy.validation.labels, clean.validation.labels)
    np.testing.assert_array_equal(noisy.test.labels, clean.test.labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_cross_entropy_against_numpy(session, random, smoothing):
    logits, labels = random.normal(size=(6, 10)).astype(np.float32), random.integers(0, 10, 6)
    loss = session.run(train.cross_entropy(tf.constant(logits), tf.constant(labels), smoothing))
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    targets = np.full((6, 10), smoothing / 10)
    targets[np.arange(6), labels] += 1 - smoothing
    assert loss == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-6)
