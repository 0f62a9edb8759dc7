"""Labels: their text, and what each is fairly compared with."""

import pytest

from training.labels import RAW, RAW_RECOMPUTED, Label, baseline_of, choose, primary


@pytest.mark.parametrize(
    ("text", "label", "baseline", "words"),
    [
        ("raw", RAW, None, "raw weights"),
        ("raw/recomputed", RAW_RECOMPUTED, RAW, "raw weights, recomputed statistics"),
        ("ema/0.990/raw", Label("ema", "0.990", "raw"), RAW, "EMA 0.990, raw network's statistics"),
        ("ema/.9/averaged", Label("ema", ".9", "averaged"), RAW, "EMA .9, averaged statistics"),
        ("ema/0/recomputed", Label("ema", "0", "recomputed"), RAW_RECOMPUTED, "EMA 0, recomputed statistics"),
    ],
)
def test_a_label_has_one_text_one_baseline_and_words(text, label, baseline, words):
    assert str(label) == text
    assert Label.parse(text) == label
    assert label.baseline == baseline
    assert label.display_name == words
    assert baseline_of(text, ["raw", "raw/recomputed"]) == (baseline and str(baseline))
    assert baseline_of(text, ["raw"]) == (None if text == "raw" else "raw")


def test_the_primary_is_the_first_average():
    assert primary(["raw", "raw/recomputed", "ema/0.9/averaged", "ema/0.99/raw"]) == "ema/0.9/averaged"
    assert primary(["raw"]) is None


@pytest.mark.parametrize("text", ["", "ema", "ema/0.9", "raw/raw", "raw/0.9/raw/x", "average/0.9/raw", "ema/0.9/raw/x"])
def test_what_is_not_a_label_is_refused(text):
    with pytest.raises(ValueError, match="is not the label"):
        Label.parse(text)


# ---------------------------------------------------------------------------------------------------------------
# The average to use: the best on the validation images, else the primary one

PRIMARY = "ema/0.99/raw"


def test_best_mean_over_runs_of_all_averages_and_of_nothing_else():
    runs = [
        {"raw": 0.9, PRIMARY: 0.5, "ema/0.9/raw": 0.8, "ema/0.99/recomputed": 0.6},
        {"raw": 0.9, PRIMARY: 0.5, "ema/0.9/raw": 0.3, "ema/0.99/recomputed": 0.6},
    ]
    assert choose(PRIMARY, runs).label == "ema/0.99/recomputed"
    assert choose(PRIMARY, runs[:1]).label == "ema/0.9/raw"
    assert "best of 3" in choose(PRIMARY, runs).reason


def test_first_named_of_equals():
    assert choose(PRIMARY, [{"raw": 0.1, PRIMARY: 0.5, "ema/0.9/raw": 0.5}]).label == PRIMARY


@pytest.mark.parametrize("validation", [[], [{}], [{"raw": 0.5, "ema/0.9/raw": 0.9}, {}]], ids=str)
def test_primary_where_a_run_held_out_no_images(validation):
    choice = choose(PRIMARY, validation)
    assert choice.label == PRIMARY
    assert "--validation_size" in choice.reason


def test_an_average_that_a_run_lacks_is_not_chosen():
    runs = [{PRIMARY: 0.5, "ema/0.9/raw": 0.9}, {PRIMARY: 0.5}]
    assert choose(PRIMARY, runs).label == PRIMARY
