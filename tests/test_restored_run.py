"""Restored runs: the logits that training saved, from one network for every label."""

import json
import shutil

import numpy as np
import pytest
from support.evaluating import LABELS, best_on_validation
from support.files import checkpoint_values, contents, read_arrays

from analysis.restored_run import RestoredRun
from analysis.statistics import log_softmax
from data import EVAL_BATCH_SIZE
from training.cli import UserError
from training.labels import RAW, Label


def test_logits_are_those_of_training(restored):
    """In both orders: one label must leave nothing in the network for the next."""
    saved = read_arrays(restored.path / "predictions.npz")
    assert saved.keys() == {"labels", *LABELS} == {"labels", *map(str, restored.labels)}
    np.testing.assert_array_equal(restored.dataset.test.labels, saved["labels"])
    for label in [*LABELS, *reversed(LABELS)]:
        difference = log_softmax(restored.test_logits(Label.parse(label))) - log_softmax(saved[label])
        assert np.abs(difference).max() < 1e-5, label


def test_logits_of_any_number_of_images(restored):
    restored.use(RAW)
    images = restored.dataset.test.images
    many = np.concatenate([images] * 8)[: EVAL_BATCH_SIZE + 3]
    whole = restored.logits(many)
    assert whole.shape == (EVAL_BATCH_SIZE + 3, 10)
    for start, end in ((0, 7), (5, 6), (EVAL_BATCH_SIZE, EVAL_BATCH_SIZE + 3)):
        np.testing.assert_allclose(restored.logits(many[start:end]), whole[start:end], atol=1e-5)
    assert restored.logits(images[:0]).shape == (0, 10)


def test_values_come_from_the_checkpoint(restored):
    saved = checkpoint_values(restored.path)
    names = {variable.op.name for variable in restored.network.variables}
    raw, averaged, plain = (restored.values(Label.parse(text)) for text in ("raw", "ema/0.80/averaged", "ema/0.90/raw"))
    assert raw.keys() == averaged.keys() == plain.keys() == names
    for name in names:
        np.testing.assert_array_equal(raw[name], saved[name])
        np.testing.assert_array_equal(averaged[name], saved[f"{name}/ExponentialMovingAverage_0.80"])
        statistic = name.endswith(("/mean", "/var"))
        np.testing.assert_array_equal(plain[name], saved[name if statistic else f"{name}/ExponentialMovingAverage"])
        assert (averaged[name] != raw[name]).any()


def test_restoring_changes_no_file(restored, tmp_path):
    directory = tmp_path / "run [1]"
    shutil.copytree(restored.path, directory)
    before = contents(directory)
    run = RestoredRun(directory)
    np.testing.assert_array_equal(run.test_logits(RAW), restored.test_logits(RAW))
    assert contents(directory) == before

    config = json.loads((directory / "config.json").read_text())
    config["flags"]["epochs"] = 5
    (directory / "config.json").write_text(json.dumps(config))
    assert RestoredRun(directory).describe_step() == "after step 16, epoch 2 of 5 (unfinished)"
    shutil.rmtree(directory / "checkpoints")
    with pytest.raises(UserError, match="checkpoint"):
        RestoredRun(directory)


@pytest.mark.parametrize("damage", [{"width": 0.5}, {"ema_decay": ["0.95", "0.85"]}], ids=str)
def test_flags_must_fit_the_checkpoint(restored, tmp_path, damage):
    directory = shutil.copytree(restored.path, tmp_path / "run")
    config = json.loads((directory / "config.json").read_text())
    config["flags"] |= damage
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="checkpoint"):
        run = RestoredRun(directory)
        for label in run.labels:
            run.use(label)


def test_describe_step(restored, monkeypatch):
    assert restored.describe_step() == "after step 16, epoch 2 of 2"
    assert restored.describe_step(12) == "after step 12, epoch 1.5 of 2 (unfinished)"
    monkeypatch.setattr(restored, "last_row", {})
    assert "step 16" in restored.describe_step() and "unfinished" in restored.describe_step()


# ---------------------------------------------------------------------------------------------------------------
# Which classifier


def test_flags_replace_the_primary_average(restored):
    for flags, label in (
        ({}, "ema/0.90/averaged"),
        ({"decay": "0.80"}, "ema/0.80/averaged"),
        ({"batch_stats": "recomputed"}, "ema/0.90/recomputed"),
        ({"weights": "raw"}, "raw"),
        ({"weights": "raw", "batch_stats": "recomputed"}, "raw/recomputed"),
    ):
        chosen, reason = restored.choose(**flags)
        assert (str(chosen), "primary" in reason) == (label, not flags)


def test_flags_replace_the_best_average(restored, monkeypatch):
    best_on_validation(monkeypatch, restored, "ema/0.80/recomputed")
    chosen, reason = restored.choose()
    assert str(chosen) == "ema/0.80/recomputed" and "validation" in reason
    assert str(restored.choose(decay="0.90")[0]) == "ema/0.90/recomputed"
    assert str(restored.choose(batch_stats="raw")[0]) == "ema/0.80/raw"
    assert str(restored.choose("raw")[0]) == "raw/recomputed"


def test_missing_classifier_is_a_usage_error(restored):
    for flags, sentence in (
        ({"decay": "0.7"}, "--decay 0.7 .* 0.90, 0.80"),
        ({"weights": "raw", "decay": "0.90"}, "--decay"),
        ({"weights": "raw", "batch_stats": "averaged"}, "--batch_stats"),
    ):
        with pytest.raises(UserError, match=sentence) as error:
            restored.choose(**flags)
        assert error.value.status == 2
