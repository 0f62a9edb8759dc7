"""The average to use: the best on the validation images, else the primary one."""

import pytest

from analysis.choice import choose

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
