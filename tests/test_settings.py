"""Settings: what follows from the flags, the device and the size of the data; the learning rate of a step."""

import re
import types

import pytest
import tensorflow.compat.v1 as tf
from support.commands import TINY_RUN, assert_one_sentence
from support.files import assert_equal_arrays, checkpoint_values

from training import device, flags, places, run_directory, settings
from training.cli import UserError

CPU, GPU = device.Device("cpu", "a CPU", False), device.Device("gpu", "a GPU", True)


def resolve(*argv, size=50_000, on=CPU, begun=None, network=None):
    return settings.resolve(flags.parse(argv), places.OneDevice(on), begun, size, network)


def test_labels_are_the_raw_ones_and_every_decay_with_every_policy():
    made = resolve("--ema_decay", "0.90", "0.8", "--ema_batch_stats", "recomputed", "raw")
    averages = "ema/0.90/recomputed ema/0.90/raw ema/0.8/recomputed ema/0.8/raw"
    assert " ".join(map(str, made.labels)) == f"raw raw/recomputed {averages}"
    assert str(made.primary) == "ema/0.90/recomputed"
    assert str(made.primary.baseline) == "raw/recomputed"
    assert list(map(str, resolve().labels)) == ["raw", "ema/0.998/raw"]


def test_steps_follow_from_the_size_of_the_data():
    made = resolve("--epochs", "3", "--batch_size", "48", size=100)
    assert (made.epoch_steps, made.total_steps) == (2, 6)
    with pytest.raises(UserError, match="--batch_size 101") as caught:
        resolve("--batch_size", "101", size=100)
    assert caught.value.status == 2


@pytest.mark.parametrize(("on", "xla", "steps_per_run"), [(CPU, False, 10), (GPU, True, 100)], ids=["cpu", "gpu"])
def test_the_device_decides_what_is_left_to_it(on, xla, steps_per_run):
    made = resolve("--precision", "float32", on=on)
    assert (made.xla, made.steps_per_run) == (xla, steps_per_run)
    assert resolve("--precision", "float32", "--xla", "off" if xla else "on", on=on).xla == (not xla)


def test_a_gpu_that_has_bfloat16_takes_it_and_a_cpu_that_has_not_does_not():
    assert resolve(on=GPU).precision == "bfloat16"
    assert resolve(on=CPU).precision == "float32"
    assert resolve("--precision", "bfloat16", on=CPU).precision == "bfloat16"


@pytest.mark.parametrize("slow", ["float32", "bfloat16"])
def test_a_cpu_that_lists_bfloat16_is_measured_on_the_network_and_the_log_says_so(slow):
    def network(images, phase, reuse, internal_update, dtype):
        """Does forty times the work in one of the two."""
        with tf.variable_scope("network", reuse=reuse):
            weights = tf.get_variable("weights", [96, 96])
        x = tf.reshape(images, [-1, 96])
        for _ in range(40 if dtype == slow else 1):
            x = tf.matmul(x, weights)
        return x

    made = resolve(on=CPU._replace(has_bfloat16=True), network=network)
    assert made.precision != slow
    ratio = float(re.search(r"bfloat16 is (\d+\.\d\d)x", made.precision_reason)[1])
    assert ratio > 4 if slow == "float32" else ratio < 0.25


def test_a_resumed_run_keeps_its_precision_and_cannot_end_before_it_stopped():
    begun = run_directory.SavedRun(flags.parse(["--epochs", "9"]), "bfloat16", 4 * 781)
    assert resolve("--epochs", "4", begun=begun).precision == "bfloat16"
    with pytest.raises(UserError, match=r"--epochs 3: .* is trained for 4 already") as caught:
        resolve("--epochs", "3", begun=begun)
    assert caught.value.status == 2


# ---------------------------------------------------------------------------------------------------------------
# The learning rate


@pytest.mark.parametrize("cooldown", [1, 3, 5])
def test_the_learning_rate_falls_linearly_to_0_over_the_last_steps(session, cooldown):
    step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
    made = types.SimpleNamespace(learning_rate=0.25, total_steps=5, lr_cooldown=cooldown, epoch_steps=1)
    rate = settings.learning_rate(made, step)
    session.run(step.initializer)
    for done in range(5):
        expected = 0.25 * min(1, (5 - done) / cooldown)
        assert session.run(rate()) == pytest.approx(expected, rel=1e-6)
        session.run(step.assign_add(1))
    assert session.run(rate()) == 0
    made.lr_cooldown = 0
    assert settings.learning_rate(made, step) == 0.25


def test_a_trunk_resumed_with_a_cooldown_equals_a_run_that_had_it_from_the_start(forked, tmp_path):
    whole, trunk = tmp_path / "whole", tmp_path / "trunk"
    assert forked("train.py", *TINY_RUN, "--epochs", 3, "--lr_cooldown", 1, "--run_dir", whole).returncode == 0
    assert forked("train.py", *TINY_RUN, "--epochs", 2, "--run_dir", trunk).returncode == 0
    result = forked("train.py", "--resume", "--run_dir", trunk, "--epochs", 3, "--lr_cooldown", 1)
    assert result.returncode == 0, result.stderr
    expected, got = checkpoint_values(whole), checkpoint_values(trunk)
    assert_equal_arrays(got, expected)
    constant = tmp_path / "constant"
    assert forked("train.py", *TINY_RUN, "--epochs", 3, "--run_dir", constant).returncode == 0
    other = checkpoint_values(constant)
    assert any((other[name] != expected[name]).any() for name in expected if name.endswith("weights"))
    for more in (["--epochs", 4], ["--epochs", 4, "--lr_cooldown", 0], ["--lr_cooldown", 2]):
        result = forked("train.py", "--resume", "--run_dir", trunk, *more)
        assert_one_sentence(result, 2, "--epochs 3 --lr_cooldown 1")
    result = forked("train.py", "--resume", "--run_dir", constant, "--epochs", 4, "--lr_cooldown", 2)
    assert_one_sentence(result, 2, "lowers the learning rate from epoch 2 on")


def test_a_cooldown_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match="--lr_cooldown 3 is longer"):
        resolve("--epochs", "2", "--lr_cooldown", "3")
