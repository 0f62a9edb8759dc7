"""Settings: what follows from flags, device and data; the learning rate of each step."""

import re
import types

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.commands import TINY_RUN, assert_one_sentence, assert_success
from support.files import assert_equal_arrays, checkpoint_values
from support.tiny import dataset

import data
from training import device, flags, settings, strategies
from training.cli import UserError

CPU, GPU = device.Device("cpu", "a CPU", False), device.Device("gpu", "a GPU", True)


def resolve(*argv, size=50_000, on=CPU, network=None):
    train = data.Split(np.zeros([size, 32, 32, 3], np.uint8), np.zeros(size, np.int64))
    return settings.resolve(flags.parse(argv), strategies.SingleDevice(on), dataset()._replace(train=train), network)


def test_labels_are_raw_then_every_average():
    resolved = resolve("--ema_decay", "0.90", "0.8", "--ema_batch_stats", "recomputed", "raw")
    averages = "ema/0.90/recomputed ema/0.90/raw ema/0.8/recomputed ema/0.8/raw"
    assert " ".join(map(str, resolved.labels)) == f"raw raw/recomputed {averages}"
    assert str(resolved.primary) == "ema/0.90/recomputed"
    assert str(resolved.primary.baseline) == "raw/recomputed"
    assert list(map(str, resolve().labels)) == ["raw", "ema/0.998/raw"]


def test_steps_follow_from_the_data():
    resolved = resolve("--epochs", "3", "--batch_size", "48", size=100)
    assert (resolved.epoch_steps, resolved.total_steps) == (2, 6)


@pytest.mark.parametrize(("on", "xla", "steps_per_run"), [(CPU, False, 10), (GPU, True, 100)], ids=["cpu", "gpu"])
def test_auto_follows_the_device(on, xla, steps_per_run):
    resolved = resolve("--precision", "float32", on=on)
    assert (resolved.xla, resolved.steps_per_run) == (xla, steps_per_run)
    assert resolve("--precision", "float32", "--xla", "off" if xla else "on", on=on).xla == (not xla)
    assert resolve(on=on).precision == ("bfloat16" if on.has_bfloat16 else "float32")
    assert resolve("--precision", "bfloat16", on=on).precision == "bfloat16"


@pytest.mark.parametrize("slow", ["float32", "bfloat16"])
def test_cpu_precision_is_measured(slow):
    def network(images, phase, reuse, internal_update, dtype, **_):
        """Does forty times the work in one of the two precisions."""
        with tf.variable_scope("network", reuse=reuse):
            weights = tf.get_variable("weights", [96, 96])
        x = tf.reshape(images, [-1, 96])
        for _ in range(40 if dtype == slow else 1):
            x = tf.matmul(x, weights)
        return x

    resolved = resolve(on=CPU._replace(has_bfloat16=True), network=network)
    assert resolved.precision != slow
    ratio = float(re.search(r"bfloat16 is (\d+\.\d\d)x", resolved.precision_reason)[1])
    assert ratio > 4 if slow == "float32" else ratio < 0.25


@pytest.mark.parametrize("cooldown", [1, 3, 5])
def test_cooldown_falls_linearly_to_zero(session, cooldown):
    step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
    schedule = types.SimpleNamespace(learning_rate=0.25, total_steps=5, lr_cooldown=cooldown, epoch_steps=1)
    rate = settings.learning_rate(schedule, step)
    session.run(step.initializer)
    for done in range(5):
        expected = 0.25 * min(1, (5 - done) / cooldown)
        assert session.run(rate()) == pytest.approx(expected, rel=1e-6)
        session.run(step.assign_add(1))
    assert session.run(rate()) == 0
    schedule.lr_cooldown = 0
    assert settings.learning_rate(schedule, step) == 0.25


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("--epochs 4", "--epochs 5 --lr_cooldown 2", None),
        ("--epochs 4", "--epochs 4 --lr_cooldown 2", "--lr_cooldown 2"),
        ("--epochs 4 --lr_cooldown 2", "--epochs 4 --lr_cooldown 2", None),
        ("--epochs 4 --lr_cooldown 2", "--epochs 5", "--lr_cooldown 2"),
        ("--epochs 4", "--epochs 2", "--epochs 2"),
    ],
)
def test_schedule_of_past_steps_cannot_change(before, after, named):
    saved = types.SimpleNamespace(flags=flags.parse(before.split()), step=30)  # 3 epochs of 10 steps
    if named is None:
        settings.check_schedule(flags.parse(after.split()), saved, 10)
        return
    with pytest.raises(UserError, match=named) as caught:
        settings.check_schedule(flags.parse(after.split()), saved, 10)
    assert caught.value.status == 2


def test_late_cooldown_equals_planned_cooldown(forked, tmp_path):
    planned, late = tmp_path / "planned", tmp_path / "late"
    assert_success(forked("train.py", *TINY_RUN, "--epochs", 3, "--lr_cooldown", 1, "--run_dir", planned))
    assert_success(forked("train.py", *TINY_RUN, "--epochs", 2, "--run_dir", late))
    constant = checkpoint_values(late)
    assert_success(forked("train.py", "--resume", "--run_dir", late, "--epochs", 3, "--lr_cooldown", 1))
    expected = checkpoint_values(planned)
    assert_equal_arrays(checkpoint_values(late), expected)
    assert any((constant[name] != expected[name]).any() for name in expected if name.endswith("weights"))
    assert_one_sentence(forked("train.py", "--resume", "--run_dir", late, "--epochs", 4), 2, "--lr_cooldown 1")
