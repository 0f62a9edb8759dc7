"""The training graph: the guard against steps that are not finite, the data order, and resuming bit for bit."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny import Trained

import data
import ema
import flags as command_line
import loop
import model
import train
from errors import UserError


def everything(run):
    """Every variable that a checkpoint holds."""
    with run.tf_graph.as_default():
        return run.read(tf.global_variables())


class Injected:
    """`train_step` on images that are fed, so that they can be NaN."""

    def __init__(self):
        with tf.Graph().as_default():
            self.x = tf.placeholder(tf.float32, [8, *data.IMAGE_SHAPE])

            def network(x, **kwargs):
                return model.classifier(x, width=0.05, seed=tf.constant([1, 2]), **kwargs)

            network(self.x, phase=False)
            stats = [v for v in tf.global_variables("class") if not v.trainable]
            step = tf.train.get_or_create_global_step()
            averages = ema.MovingAverages([0.9], stats_list=stats)
            optimizer = tf.train.AdamOptimizer(1e-3)
            self.run_step = train.train_step(
                network, self.x, tf.range(8, dtype=tf.int64), optimizer, averages, stats, step
            )
            self.state = {v.op.name: v for v in tf.global_variables()}
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())

    def step(self, images):
        _, _, finite = self.session.run(self.run_step, {self.x: images})
        return finite, self.session.run(self.state)


def test_a_step_that_is_not_finite_changes_nothing_but_the_count():
    images = np.random.default_rng(0).uniform(-1, 1, (8, *data.IMAGE_SHAPE))
    injected = Injected()
    finite, before = injected.step(images)
    assert finite
    spoilt = images.copy()
    spoilt[3, 4, 5, 0] = np.nan
    finite, after = injected.step(spoilt)
    assert not finite
    assert after.pop("global_step") == before.pop("global_step") + 1
    assert len(before) > 100
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)
    finite, later = injected.step(images)
    assert finite
    assert all(np.isfinite(value).all() for value in later.values())
    assert any((later[name] != before[name]).any() for name in before if name.endswith("weights"))
    assert any((later[name] != before[name]).any() for name in before if name.endswith("/mean"))


def test_training_ends_after_ten_steps_in_a_row_that_are_not_finite():
    # float32 cannot hold the weights that such a rate leads to: the first step is the last one that is finite.
    run = Trained("--learning_rate", "1e38", steps=0)
    reached, in_a_row = run.session.run(run.graph.train, {run.graph.until: 100})
    assert (reached, in_a_row) == (1 + loop.MAX_SKIPPED, loop.MAX_SKIPPED)
    _, _, skipped = run.session.run(run.graph.sums)
    assert skipped == loop.MAX_SKIPPED
    shadows = run.shadows(run.graph.averages.decays[0])
    assert all(np.isfinite(shadow).all() for shadow in shadows.values())


def test_steps_one_by_one_and_in_one_run_give_the_same_numbers():
    one_by_one, together = Trained(steps=4), Trained(steps=0)
    together.session.run(together.graph.shuffle)
    together.session.run(together.graph.train, {together.graph.until: 4})
    expected, got = everything(one_by_one), everything(together)
    for name in expected:
        np.testing.assert_array_equal(expected[name], got[name], err_msg=name)


def test_the_compiled_loop_gives_the_same_numbers_up_to_rounding():
    """After one step: the loss, the gradients (Adam's first moment) and the batch statistics.

    The weights are no measure: Adam's first step is the gradient's sign, which rounding flips where it is near zero.
    """
    expected, got = everything(Trained(steps=1)), everything(Trained(steps=1, xla=True))
    measured = [name for name in expected if name.endswith(("/Adam", "/mean", "/var", "_sum"))]
    assert len(measured) > 50
    for name in measured:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(got[name], expected[name], atol=1e-3 * scale + 1e-7, rtol=0, err_msg=name)
    assert got["ema_updates"] == 1


def test_a_restored_run_continues_bit_for_bit(tmp_path):
    flags = ("--ema_start", "unbiased", "--augment", "--ema_power", "0.1")
    whole, first, second = Trained(*flags, steps=10), Trained(*flags, steps=6), Trained(*flags, steps=0)
    with first.tf_graph.as_default():
        path = first.graph.saver.save(first.session, str(tmp_path / "model"))
    with second.tf_graph.as_default():
        second.graph.saver.restore(second.session, path)
    second.session.run(second.graph.shuffle)
    second.session.run(second.graph.train, {second.graph.until: 8})
    second.session.run(second.graph.shuffle)
    second.session.run(second.graph.train, {second.graph.until: 10})
    expected, got = everything(whole), everything(second)
    for name in expected:
        np.testing.assert_array_equal(expected[name], got[name], err_msg=name)


def test_an_epoch_uses_every_image_once():
    run = Trained(steps=0)
    with run.tf_graph.as_default():
        order = next(v for v in tf.local_variables() if v.op.name == "train_order")
    run.session.run(run.graph.shuffle)
    first = run.session.run(order)
    assert sorted(first) == list(range(64))
    run.session.run(run.graph.train, {run.graph.until: 4})
    run.session.run(run.graph.shuffle)
    assert (run.session.run(order) != first).any()


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ({"raw": 0.5, "ema/0.9/raw": 0.6}, []),
        (
            {"raw": 0.5, "raw/recomputed": 0.55, "ema/0.9/recomputed": 0.7},
            [
                "ema/0.9/recomputed over raw: +20.00 points = +15.00 weights +5.00 batch statistics, "
                "by way of raw/recomputed"
            ],
        ),
        (
            {"raw": 0.5, "ema/0.9/raw": 0.6, "ema/0.9/averaged": 0.7},
            [
                "ema/0.9/averaged over raw: +20.00 points = +10.00 weights +10.00 batch statistics, "
                "by way of ema/0.9/raw"
            ],
        ),
    ],
)
def test_gains_are_split_into_weights_and_batch_statistics(accuracy, expected):
    assert loop.split_gains(accuracy) == expected


@pytest.mark.parametrize("epochs", [0.64, 100, 1000])
def test_a_horizon_is_kept_to_many_digits(epochs):
    flags = command_line.parse(["--ema_horizon", str(epochs)])
    (decay,) = train.decays(flags, 50_000)
    assert 1 / (1 - decay) == pytest.approx(epochs * 50_000 / 64, rel=1e-3)
    assert epochs != 0.64 or str(decay) == "0.998"


@pytest.mark.parametrize("horizons", [["1e9"], ["0.0001"], ["1000", "1000.0001"]])
def test_horizons_that_are_no_averages_are_refused(horizons):
    with pytest.raises(UserError, match="--ema_horizon"):
        train.decays(command_line.parse(["--ema_horizon", *horizons]), 50_000)
