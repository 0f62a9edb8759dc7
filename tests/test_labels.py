"""Labels: text, baseline, and the choice of an average."""

import pytest

import data
from training.labels import DATASETS, RAW, RAW_RECOMPUTED, Label, baseline_of, choose, primary

PRIMARY = "ema/0.99/raw"


@pytest.mark.parametrize(
    ("text", "label", "baseline"),
    [
        ("raw", RAW, None),
        ("raw/recomputed", RAW_RECOMPUTED, RAW),
        ("ema/0.990/raw", Label("ema", "0.990", "raw"), RAW),
        ("ema/.9/averaged", Label("ema", ".9", "averaged"), RAW),
        ("ema/0/recomputed", Label("ema", "0", "recomputed"), RAW_RECOMPUTED),
    ],
)
def test_label_text_and_baseline(text, label, baseline):
    assert str(label) == text
    assert Label.parse(text) == label
    assert label.baseline == baseline
    assert baseline_of(text, ["raw", "raw/recomputed"]) == (baseline and str(baseline))
    assert baseline_of(text, ["raw"]) == (None if text == "raw" else "raw")


@pytest.mark.parametrize("text", ["", "ema", "ema/0.9", "raw/raw", "raw/0.9/raw/x", "average/0.9/raw", "ema/0.9/raw/x"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="label"):
        Label.parse(text)


def test_primary_is_first_average():
    assert primary(["raw", "raw/recomputed", "ema/0.9/averaged", "ema/0.99/raw"]) == "ema/0.9/averaged"
    assert primary(["raw"]) is None


def test_choice_has_best_mean_over_runs():
    runs = [
        {"raw": 0.9, PRIMARY: 0.5, "ema/0.9/raw": 0.8, "ema/0.99/recomputed": 0.6},
        {"raw": 0.9, PRIMARY: 0.5, "ema/0.9/raw": 0.3, "ema/0.99/recomputed": 0.6},
    ]
    assert choose(PRIMARY, runs).label == "ema/0.99/recomputed"
    assert choose(PRIMARY, runs[:1]).label == "ema/0.9/raw"
    assert choose(PRIMARY, [{PRIMARY: 0.5, "ema/0.9/raw": 0.5}]).label == PRIMARY  # the first among equals
    assert choose(PRIMARY, [{PRIMARY: 0.5, "ema/0.9/raw": 0.9}, {PRIMARY: 0.5}]).label == PRIMARY  # missing in a run


@pytest.mark.parametrize("validation", [[], [{}], [{"raw": 0.5, "ema/0.9/raw": 0.9}, {}]], ids=str)
def test_choice_without_validation_is_primary(validation):
    choice = choose(PRIMARY, validation)
    assert choice.label == PRIMARY
    assert "--validation_size" in choice.reason


def test_data_set_names_agree():
    assert tuple(data.DATASETS) == DATASETS
