"""The training graph: skipped steps, the order of the data, and resuming bit for bit."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.files import assert_equal_arrays
from support.tiny import EPOCH_STEPS, SteppedRun, dataset

from training.labels import RAW, Label
from training.loop import MAX_SKIPPED


@pytest.mark.parametrize("xla", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "compiled"])
@pytest.mark.parametrize(("name", "value"), [("beta", np.nan), ("conv/weights", 1e25)], ids=["loss", "statistics"])
def test_non_finite_step_changes_only_counters(name, value, xla):
    """Weights of 1e25 give an infinite batch variance, but a finite loss and finite gradients."""
    run = SteppedRun("--ema_start", "unbiased", "--ema_batch_stats", "averaged", "--ema_power", "0.1", steps=1, xla=xla)
    variable = next(v for v in run.graph.var_class if v.op.name == f"class/conv1_1/{name}")
    original = run.session.run(variable)
    variable.load(np.full_like(original, value), run.session)
    before = run.everything()
    assert len(before) > 100
    assert run.train(2).skipped_in_a_row == 1
    after = run.everything()
    counts = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert counts == {"global_step", "skipped_in_a_row", "skipped_sum"}
    assert after["global_step"] == 2 and after["skipped_sum"] == 1
    variable.load(original, run.session)
    assert run.train(3).skipped_in_a_row == 0
    later = run.everything()
    assert all(np.isfinite(value).all() for value in later.values())
    changed = {name for name in before if (before[name] != later[name]).any()}
    for ending in ("/weights", "/mean", "/var", "/Adam", "/ExponentialMovingAverage", "ema_updates", "ema_decay"):
        assert any(name.endswith(ending) for name in changed), ending


def test_ten_skips_end_training():
    # After the first step float32 cannot hold the weights.
    run = SteppedRun("--learning_rate", "1e38", steps=0)
    result = run.train(100)
    assert (result.step, result.skipped_in_a_row) == (1 + MAX_SKIPPED, MAX_SKIPPED)
    assert run.session.run(run.graph.loop.totals).skipped == MAX_SKIPPED
    assert all(np.isfinite(shadow).all() for shadow in run.shadows(run.primary()).values())


def test_single_steps_equal_one_loop():
    one_by_one, together = SteppedRun(steps=4), SteppedRun(steps=0)
    together.train(4)
    assert_equal_arrays(together.everything(), one_by_one.everything())


@pytest.mark.slow
def test_compiled_loop_is_equal_after_rounding():
    """Compares the loss, the gradients (Adam's first moment) and the batch statistics after one step.

    Weights cannot be compared: Adam's first step is the sign of the gradient, which rounding flips near zero.
    """
    expected, got = SteppedRun(steps=1).everything(), SteppedRun(steps=1, xla=True).everything()
    measured = [name for name in expected if name.endswith(("/Adam", "/mean", "/var", "_sum"))]
    assert len(measured) > 50
    for name in measured:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(got[name], expected[name], atol=1e-3 * scale + 1e-7, rtol=0, err_msg=name)
    assert got["ema_updates"] == 1


def test_restored_run_continues_bit_for_bit(tmp_path):
    flags = ("--ema_start", "unbiased", "--augment", "--ema_batch_stats", "averaged", "--ema_power", "0.1")
    whole, first, second = SteppedRun(*flags, steps=10), SteppedRun(*flags, steps=6), SteppedRun(*flags, steps=0)
    path = first.saver.save(first.session, str(tmp_path / "model"))
    second.saver.restore(second.session, path)
    second.session.run(second.graph.shuffle)  # within an epoch, like a resumed run
    second.train(8)
    second.train(10)
    assert_equal_arrays(second.everything(), whole.everything())


def test_epoch_uses_every_image_once():
    run = SteppedRun(steps=0)
    with run.tf_graph.as_default():
        order = next(v for v in tf.local_variables() if v.op.name == "train_order")
    run.session.run(run.graph.shuffle)
    first = run.session.run(order)
    assert sorted(first) == list(range(64))
    run.train(EPOCH_STEPS)
    run.session.run(run.graph.shuffle)
    assert (run.session.run(order) != first).any()


def test_every_label_has_a_test_classifier():
    run = SteppedRun("--ema_decay", "0.9", "0.5", "--ema_batch_stats", "recomputed", "raw", steps=1)
    assert tuple(run.graph.test_classifiers) == run.settings.labels
    assert run.settings.primary == Label("ema", "0.9", "recomputed")
    for label, test_classifier in run.graph.test_classifiers.items():
        assert run.logits(label).shape == (len(dataset().test.labels), 10)
        assert (test_classifier.recompute is None) == (label.statistics != "recomputed")
    assert run.graph.test_classifiers[RAW].logits.keys() == {"test"}
