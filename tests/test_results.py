"""results/readme_tables.py: what the tables say of runs whose numbers are known, and which numbers in prose are in none."""

import json

import pytest
from support.finished_runs import write_experiment

from results import experiments, tables

TABLE = "<!-- results: lengths gain -->\n<!-- end -->\n"
RAW, EMA, OTHER = "raw/recomputed", "ema/0.998/recomputed", "ema/0.999/recomputed"


@pytest.fixture
def kept(tmp_path):
    runs = {run.name: run for run in experiments.RUNS}
    return lambda name, *arguments, **options: write_experiment(tmp_path, runs[name], *arguments, **options)


@pytest.fixture
def rows(tmp_path):
    return lambda name, *arguments: {row[0]: row[1:] for row in tables.TABLES[name](tmp_path, *arguments).rows}


def test_headline(rows, kept):
    """Three seeds: mean 2 and s = 1, so t(2) / sqrt(3) = 2.4841 to each side. Two seeds: both."""
    guide = kept("guide/seed-0", {"raw": 0.8, "ema/0.998/raw": 0.83}, precision="float32")
    answer = {"label": "ema/0.998/raw", "fixed": 400, "broken": 100}  # of 10,000: variance 0.05 - 0.03^2
    (guide / "table.json").write_text(json.dumps([{"label": "raw"}, answer]))
    for seed, gain in enumerate((0.01, 0.02, 0.03)):
        kept(f"gain/seed-{seed}", {RAW: 0.7, EMA: 0.7 + gain}, {EMA: 0.9})
    for seed, gain in enumerate((0.05, 0.07)):
        kept(f"noise/seed-{seed}", {RAW: 0.6, OTHER: 0.6 + gain}, {OTHER: 0.9})
    assert rows("headline") == {
        "the guide as it is (float32, seed 0)": ["80.00", "83.00 (0.998)", "+3.00 [+2.57, +3.43]"],
        "constant rate (bfloat16, seeds 0, 1, 2)": ["70.00", "72.00 (0.998)", "+2.00 [-0.48, +4.48]"],
        "40% wrong labels (bfloat16, seeds 0, 1)": ["60.00", "66.00 (0.999)", "+6.00 (+5.00, +7.00)"],
    }


def test_the_average_is_chosen_on_the_validation_images_after_every_epoch(rows, kept):
    """On the test images the other one is better; raw statistics, better still, are not to be chosen."""
    held_out = {OTHER: 0.8, EMA: [0.9, 0.7, 0.7, 0.7, 0.7], RAW: 0.99, "ema/0.99/raw": 0.99}
    kept("gain/seed-0", {RAW: 0.6, EMA: 0.9, OTHER: [0.7, 0.71, 0.72, 0.73, 0.74]}, held_out)
    found = rows("lengths", "gain")
    assert found["4"] == ["60.00", "90.00 (0.998)", "+30.00"]
    assert found["20"] == ["60.00", "74.00 (0.999)", "+14.00"]


def test_every_gain_is_over_the_raw_weights_with_the_same_statistics(rows, kept):
    kept("gain/seed-0", {"raw": 0.4, RAW: 0.6, EMA: 0.9, "ema/0.998/raw": 0.7, OTHER: 0.55, "ema/0.999/raw": 0.45})
    found = rows("decays", "gain")
    assert found["0.998, 0.64 epochs"] == ["90.00", "+30.00", "70.00", "+30.00"]  # 500 of 781 steps
    assert found["0.999, 1.3 epochs"] == ["55.00", "-5.00", "45.00", "+5.00"]


def test_experiments_are_compared_over_the_seeds_that_both_have(rows, kept):
    for seed in (0, 1, 2):
        kept(f"gain/seed-{seed}", {RAW: 0.7 + seed / 100, EMA: 0.8}, {EMA: 0.9})
        kept(f"cooldown/seed-{seed + 1}", {RAW: 0.81 + seed / 100, OTHER: 0.85}, {OTHER: 0.9})
    found = rows("against", "gain", "cooldown")
    assert list(found)[2] == "rate annealed to 0 (bfloat16, seeds 1, 2), raw"
    assert list(found.values()) == [
        ["71.50", "-", "-8.50 (-9.00, -8.00)"],
        ["80.00", "+8.50 (+9.00, +8.00)", "-"],
        ["81.50", "+10.00 (+10.00, +10.00)", "+1.50 (+1.00, +2.00)"],
        ["85.00", "+13.50 (+14.00, +13.00)", "+5.00 (+5.00, +5.00)"],
    ]


def test_first_epochs_are_means_over_seeds_with_gains_over_the_same_run(rows, kept):
    for name, raw in (("initial-seed0", 0.5), ("initial-seed1", 0.7), ("warmup-seed0", 0.5), ("unbiased-seed0", 0.5)):
        kept(f"starts/{name}", {"raw": 0.1, RAW: [raw, 0.7, 0.7], EMA: 0.8})
    found = rows("first_epochs", "averaged", "recomputed")
    assert found["initial"] == 3 * ["50.00 (+40.00)"] + ["80.00 (+20.00)", "80.00 (+10.00)", "80.00 (+10.00)"]
    assert found["warmup"] == 3 * ["50.00 (+40.00)"] + ["80.00 (+30.00)", "80.00 (+10.00)", "80.00 (+10.00)"]


@pytest.fixture
def readme(tmp_path, kept, capsys):
    """Has --write or --check go over a README of the text given; returns status, text and output."""
    kept("gain/seed-0", {RAW: 0.6, EMA: 0.7312}, {EMA: 0.9})
    file = tmp_path / "README.md"

    def go(action, text):
        file.write_text(text)
        return tables.main([action], [file], tmp_path), file.read_text(), capsys.readouterr().out

    return go


def test_one_changed_digit_of_a_table_is_found(readme):
    _, written, _ = readme("--write", TABLE + TABLE.replace("gain", "length"))
    assert "| 20 | 60.00 | 73.12 (0.998) | +13.12 |" in written and "make results NAME=length" in written
    assert readme("--check", written) == (0, written, "")
    changed = written.replace("73.12", "73.13", 1)
    status, after, said = readme("--check", changed)
    assert (status, after) == (1, changed) and "-| 4 | 60.00 | 73.13" in said


def test_a_number_in_prose_needs_a_table_or_a_constant(readme):
    _, written, _ = readme("--write", TABLE)
    sound = f"{written}EMA has 73.12%, raw -13.12; `--width 0.123`, Python 3.11.7 or 3.10.\n\n    99.99 in code\n"
    assert readme("--check", sound) == (0, sound, "")
    for number in ("7.31", "73.1", "3.12"):
        text = f"EMA adds {number} points.\n"
        assert readme("--check", sound + text)[::2] == (1, f"README.md: no table has {number}: {text}")
