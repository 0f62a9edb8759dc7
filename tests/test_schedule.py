"""The cooldown of the learning rate: its numbers, and which resumptions would have needed others before."""

import pytest
import tensorflow.compat.v1 as tf
from support.commands import TINY_RUN, assert_one_sentence
from support.files import assert_equal_arrays, checkpoint_values
from training.schedule import learning_rate


@pytest.mark.parametrize("cooldown", [1, 3, 5])
def test_the_learning_rate_falls_linearly_to_0_over_the_last_steps(session, cooldown):
    step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
    rate = learning_rate(0.25, step, 5, cooldown)
    session.run(step.initializer)
    for done in range(5):
        expected = 0.25 * min(1, (5 - done) / cooldown)
        assert session.run(rate()) == pytest.approx(expected, rel=1e-6)
        session.run(step.assign_add(1))
    assert session.run(rate()) == 0
    assert learning_rate(0.25, step, 5, 0) == 0.25


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
    for flags in (["--epochs", 4], ["--epochs", 4, "--lr_cooldown", 0], ["--lr_cooldown", 2]):
        result = forked("train.py", "--resume", "--run_dir", trunk, *flags)
        assert_one_sentence(result, 2, "--epochs 3 --lr_cooldown 1")
    result = forked("train.py", "--resume", "--run_dir", constant, "--epochs", 4, "--lr_cooldown", 2)
    assert_one_sentence(result, 2, "lowers the learning rate from epoch 2 on")


def test_a_cooldown_longer_than_the_run_is_refused(forked, tmp_path):
    result = forked("train.py", *TINY_RUN, "--epochs", 2, "--lr_cooldown", 3, "--run_dir", tmp_path / "run")
    assert_one_sentence(result, 2, "--lr_cooldown 3 is longer")
    assert not (tmp_path / "run").exists()
