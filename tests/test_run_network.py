"""A finished run brought back to life: the logits that training left, from one network for every label."""

import json
import shutil

import numpy as np
import pytest
from support.evaluating import LABELS
from support.files import checkpoint_values, contents, read_arrays
from training.errors import UserError

from analysis import restored as restoring
from analysis.statistics import log_softmax
from training.labels import RAW, Label


def test_restored_run_gives_the_logits_that_training_left(restored):
    """In this order and then the other way round: nothing of one label may stay in the network for the next."""
    saved = read_arrays(restored.path / "predictions.npz")
    assert saved.keys() == {"labels", *LABELS}
    np.testing.assert_array_equal(restored.dataset.test.labels, saved["labels"])
    for label in [*LABELS, *reversed(LABELS)]:
        difference = log_softmax(restored.test_logits(Label.parse(label))) - log_softmax(saved[label])
        assert np.abs(difference).max() < 1e-5, label


def test_labels_are_those_of_the_run_and_more_that_it_can_tell(restored):
    assert list(map(str, restored.labels)) == LABELS
    assert str(restored.primary) == "ema/0.90/averaged"


def test_any_number_of_images_gives_the_same_logits(restored, monkeypatch):
    restored.take(RAW)
    images = restored.dataset.test.images[:7]
    whole = restored.logits(images)
    assert whole.shape == (7, 10)
    monkeypatch.setattr(restoring, "BATCH", 3)
    np.testing.assert_allclose(restored.logits(images), whole, atol=1e-5)
    assert restored.logits(images[:0]).shape == (0, 10)


def test_values_of_a_label_are_those_of_the_checkpoint(restored):
    saved = checkpoint_values(restored.path)
    names = {variable.op.name for variable in restored.network.variables}
    raw, averaged = (restored.values(Label.parse(text)) for text in ("raw", "ema/0.80/averaged"))
    plain = restored.values(Label("ema", "0.90"))
    assert raw.keys() == averaged.keys() == plain.keys() == names
    for name in names:
        np.testing.assert_array_equal(raw[name], saved[name])
        np.testing.assert_array_equal(averaged[name], saved[f"{name}/ExponentialMovingAverage_0.80"])
        statistic = name.endswith(("/mean", "/var"))
        np.testing.assert_array_equal(plain[name], saved[name if statistic else f"{name}/ExponentialMovingAverage"])
        assert (averaged[name] != raw[name]).any()


def test_label_that_the_run_has_not_is_refused_with_those_it_has(restored):
    with pytest.raises(UserError, match=r"holds no ema/0\.7/raw, but raw, raw/recomputed, ema/0\.90") as caught:
        restored.take(Label("ema", "0.7"))
    assert caught.value.status == 2


def test_run_of_horizons_says_its_decays_in_its_config_or_in_its_rows(restored):
    assert restoring.decays_of({"decays": ["0.9", "0.99"]}, restored.flags, []) == ["0.9", "0.99"]
    rows = [{"classifiers": {"raw": 0.5, "ema/0.5/raw": 0.5, "ema/0.5/averaged": 0.5, "ema/0.25/raw": 0.5}}]
    flags = type("Flags", (), {"ema_decay": None, "run_dir": "x"})
    assert restoring.decays_of({}, flags, rows) == ["0.5", "0.25"]
    with pytest.raises(UserError, match="was not evaluated yet"):
        restoring.decays_of({}, flags, [])


def test_restoring_changes_no_file(restored, tmp_path):
    directory = tmp_path / "run [1]"
    shutil.copytree(restored.path, directory)
    before = contents(directory)
    with restoring.RestoredRun(directory) as run:
        run.take(RAW)
        np.testing.assert_array_equal(run.test_logits(RAW), restored.test_logits(RAW))
    assert contents(directory) == before


def test_run_without_a_checkpoint_is_told(restored, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(restored.path, directory, ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        restoring.RestoredRun(directory)
    saved = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(saved | {"precision": "auto"}))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        restoring.RestoredRun(directory)
