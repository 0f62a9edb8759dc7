"""Labels: their text, and what each is fairly compared with."""

import pytest

from training import labels
from training.labels import RAW, RAW_RECOMPUTED, Label


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
def test_a_label_has_one_text_and_one_baseline(text, label, baseline):
    assert str(label) == text
    assert Label.parse(text) == label
    assert label.baseline == baseline


@pytest.mark.parametrize("text", ["", "ema", "ema/0.9", "raw/raw", "raw/0.9/raw/x", "average/0.9/raw", "ema/0.9/raw/x"])
def test_what_is_not_a_label_is_refused(text):
    with pytest.raises(ValueError, match="is not the label"):
        Label.parse(text)


def test_what_a_label_is_compared_with_is_of_those_that_were_evaluated():
    averaged, recomputed = "ema/0.9/averaged", "ema/0.9/recomputed"
    assert labels.primary(["raw", averaged, recomputed]) == averaged
    assert labels.primary(["raw", "raw/recomputed"]) is None
    assert labels.baseline_of(recomputed, ["raw", "raw/recomputed", recomputed]) == "raw/recomputed"
    assert labels.baseline_of(recomputed, ["raw", recomputed]) == "raw"
    assert labels.baseline_of(averaged, ["raw", "raw/recomputed"]) == "raw"
    assert labels.baseline_of("raw", ["raw"]) is None
