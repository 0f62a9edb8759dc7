"""The training graph: the order of the data, its averages, and going on bit for bit."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.files import assert_equal_arrays
from support.tiny import EPOCH_STEPS, SteppedRun, dataset

from training.labels import RAW, Label
from training.loop import MAX_SKIPPED


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "compiled"])
@pytest.mark.parametrize(("name", "value"), [("beta", np.nan), ("conv/weights", 1e25)], ids=["loss", "statistics"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_counts(name, value, xla):
    """Neither weights nor Adam's moments, batch statistics, averages of either, their decays or their count.

    Weights of 1e25 give an infinite batch variance, and a loss and gradients that are finite.
    """
    run = SteppedRun("--ema_start", "unbiased", "--ema_batch_stats", "averaged", "--ema_power", "0.1", steps=1, xla=xla)
    spoilt = next(v for v in run.graph.var_class if v.op.name == f"class/conv1_1/{name}")
    sound = run.session.run(spoilt)
    spoilt.load(np.full_like(sound, value), run.session)
    before = run.everything()
    assert len(before) > 100
    assert run.train(2).skipped_in_a_row == 1
    after = run.everything()
    counts = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert counts == {"global_step", "skipped_in_a_row", "skipped_sum"}
    assert after["global_step"] == 2 and after["skipped_sum"] == 1
    spoilt.load(sound, run.session)
    assert run.train(3).skipped_in_a_row == 0
    later = run.everything()
    assert all(np.isfinite(value).all() for value in later.values())
    changed = {name for name in before if (before[name] != later[name]).any()}
    for ending in ("/weights", "/mean", "/var", "/Adam", "/ExponentialMovingAverage", "ema_updates", "ema_decay"):
        assert any(name.endswith(ending) for name in changed), ending


def test_training_ends_after_ten_steps_in_a_row_that_are_not_finite():
    # float32 cannot hold the weights that such a rate leads to: the first step is the last one that is finite.
    run = SteppedRun("--learning_rate", "1e38", steps=0)
    progress = run.train(100)
    assert (progress.step, progress.skipped_in_a_row) == (1 + MAX_SKIPPED, MAX_SKIPPED)
    assert run.session.run(run.graph.loop.totals).skipped == MAX_SKIPPED
    assert all(np.isfinite(shadow).all() for shadow in run.shadows(run.primary()).values())


def test_steps_one_by_one_and_in_one_run_give_the_same_numbers():
    one_by_one, together = SteppedRun(steps=4), SteppedRun(steps=0)
    together.train(4)
    assert_equal_arrays(together.everything(), one_by_one.everything())


@pytest.mark.slow
def test_the_compiled_loop_gives_the_same_numbers_up_to_rounding():
    """After one step: the loss, the gradients (Adam's first moment) and the batch statistics.

    The weights are no measure: Adam's first step is the gradient's sign, which rounding flips where it is near zero.
    """
    expected, got = SteppedRun(steps=1).everything(), SteppedRun(steps=1, xla=True).everything()
    measured = [name for name in expected if name.endswith(("/Adam", "/mean", "/var", "_sum"))]
    assert len(measured) > 50
    for name in measured:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(got[name], expected[name], atol=1e-3 * scale + 1e-7, rtol=0, err_msg=name)
    assert got["ema_updates"] == 1


def test_a_restored_run_continues_bit_for_bit(tmp_path):
    flags = ("--ema_start", "unbiased", "--augment", "--ema_power", "0.1")
    whole, first, second = SteppedRun(*flags, steps=10), SteppedRun(*flags, steps=6), SteppedRun(*flags, steps=0)
    path = first.saver.save(first.session, str(tmp_path / "model"))
    second.saver.restore(second.session, path)
    second.session.run(second.graph.shuffle)  # in the midst of an epoch, as a resumed run does
    second.train(8)
    second.train(10)
    assert_equal_arrays(second.everything(), whole.everything())


def test_an_epoch_uses_every_image_once():
    run = SteppedRun(steps=0)
    with run.tf_graph.as_default():
        order = next(v for v in tf.local_variables() if v.op.name == "train_order")
    run.session.run(run.graph.shuffle)
    first = run.session.run(order)
    assert sorted(first) == list(range(64))
    run.train(EPOCH_STEPS)
    run.session.run(run.graph.shuffle)
    assert (run.session.run(order) != first).any()


def test_every_label_of_the_settings_is_tested_on_every_image():
    run = SteppedRun("--ema_decay", "0.9", "0.5", "--ema_batch_stats", "recomputed", "raw", steps=1)
    assert tuple(run.graph.test_classifiers) == run.settings.labels
    assert run.settings.primary == Label("ema", "0.9", "recomputed")
    for label, tested in run.graph.test_classifiers.items():
        assert run.logits(label).shape == (len(dataset().test.labels), 10)
        assert (tested.recompute is None) == (label.statistics != "recomputed")
    assert run.graph.test_classifiers[RAW].logits.keys() == {"test"}
