"""results/readme_tables.py: its tables for runs with known numbers."""

import json

import pytest
from support.finished_runs import write_experiment

from results import experiments, readme_tables
from training.cli import UserError

RAW, EMA, OTHER = "raw/recomputed", "ema/0.998/recomputed", "ema/0.999/recomputed"


@pytest.fixture
def write(tmp_path):
    runs = {run.name: run for run in experiments.RUNS}
    return lambda name, *arguments, **options: write_experiment(tmp_path, runs[name], *arguments, **options)


@pytest.fixture
def rows(tmp_path):
    return lambda name, *arguments: {row[0]: row[1:] for row in getattr(readme_tables, name)(tmp_path, *arguments).rows}


def test_headline(rows, write):
    """Three seeds: mean 2 and s = 1, so the half width is t(2) / sqrt(3) = 2.4841. Two seeds: both gains."""
    guide = write("guide/seed-0", {"raw": 0.8, "ema/0.998/raw": 0.83}, precision="float32")
    counts = {"label": "ema/0.998/raw", "fixed": 400, "broken": 100}  # of 10,000: variance 0.05 - 0.03^2
    (guide / "table.json").write_text(json.dumps([{"label": "raw"}, counts]))
    for seed, gain in enumerate((0.01, 0.02, 0.03)):
        write(f"gain/seed-{seed}", {RAW: 0.7, EMA: 0.7 + gain}, {EMA: 0.9})
    for seed, gain in enumerate((0.05, 0.07)):
        write(f"noise/seed-{seed}", {RAW: 0.6, OTHER: 0.6 + gain}, {OTHER: 0.9})
    assert rows("headline") == {
        "the guide as it is (float32, seed 0)": ["80.00", "83.00 (0.998)", "+3.00 [+2.57, +3.43]"],
        "constant rate (bfloat16, seeds 0, 1, 2)": ["70.00", "72.00 (0.998)", "+2.00 [-0.48, +4.48]"],
        "40% wrong labels (bfloat16, seeds 0, 1)": ["60.00", "66.00 (0.999)", "+6.00 (+5.00, +7.00)"],
    }


def test_average_is_chosen_on_validation_images(rows, write):
    """After every epoch, among recomputed averages only; the test images would choose the other average."""
    validation = {OTHER: 0.8, EMA: [0.9, 0.7, 0.7, 0.7, 0.7], RAW: 0.99, "ema/0.99/raw": 0.99}
    write("gain/seed-0", {RAW: 0.6, EMA: 0.9, OTHER: [0.7, 0.71, 0.72, 0.73, 0.74]}, validation)
    table = rows("lengths", "gain")
    assert table["4"] == ["60.00", "90.00 (0.998)", "+30.00"]
    assert table["20"] == ["60.00", "74.00 (0.999)", "+14.00"]


def test_gains_compare_equal_statistics(rows, write):
    write("gain/seed-0", {"raw": 0.4, RAW: 0.6, EMA: 0.9, "ema/0.998/raw": 0.7, OTHER: 0.55, "ema/0.999/raw": 0.45})
    table = rows("decays", "gain")
    assert table["0.998, 0.64 epochs"] == ["90.00", "+30.00", "70.00", "+30.00"]  # 500 of 781 steps
    assert table["0.999, 1.3 epochs"] == ["55.00", "-5.00", "45.00", "+5.00"]


def test_experiments_are_compared_over_common_seeds(rows, write):
    for seed in (0, 1, 2):
        write(f"gain/seed-{seed}", {RAW: 0.7 + seed / 100, EMA: 0.8}, {EMA: 0.9})
        write(f"cooldown/seed-{seed + 1}", {RAW: 0.81 + seed / 100, OTHER: 0.85}, {OTHER: 0.9})
    table = rows("against", "gain", "cooldown")
    assert list(table)[2] == "rate annealed to 0 (bfloat16, seeds 1, 2), raw"
    assert list(table.values()) == [
        ["71.50", "-", "-8.50 (-9.00, -8.00)"],
        ["80.00", "+8.50 (+9.00, +8.00)", "-"],
        ["81.50", "+10.00 (+10.00, +10.00)", "+1.50 (+1.00, +2.00)"],
        ["85.00", "+13.50 (+14.00, +13.00)", "+5.00 (+5.00, +5.00)"],
    ]


def test_first_epochs_are_means_over_seeds(rows, write):
    for name, raw in (("initial-seed0", 0.5), ("initial-seed1", 0.7), ("warmup-seed0", 0.5), ("unbiased-seed0", 0.5)):
        write(f"starts/{name}", {"raw": 0.1, RAW: [raw, 0.7, 0.7], EMA: 0.8})
    table = rows("first_epochs", "averaged", "recomputed")
    assert table["initial"] == 3 * ["50.00 (+40.00)"] + ["80.00 (+20.00)", "80.00 (+10.00)", "80.00 (+10.00)"]
    assert table["warmup"] == 3 * ["50.00 (+40.00)"] + ["80.00 (+30.00)", "80.00 (+10.00)", "80.00 (+10.00)"]


def test_changed_digit_in_readme_is_found(write, tmp_path):
    write("gain/seed-0", {RAW: 0.6, EMA: 0.7312}, {EMA: 0.9})
    readme, block = tmp_path / "README.md", "<!-- results: lengths gain -->\n<!-- end -->\n"
    readme.write_text(f"before\n{block}{block.replace('gain', 'length')}after\n")
    with pytest.raises(SystemExit, match="---"):
        readme_tables.main(["--check"], [readme], tmp_path)
    readme_tables.main(["--write"], [readme], tmp_path)
    readme_tables.main(["--check"], [readme], tmp_path)
    written = readme.read_text()
    assert "| 20 | 60.00 | 73.12 (0.998) | +13.12 |" in written and "make results NAME=length" in written
    readme.write_text(written.replace("73.12", "73.13", 1))
    with pytest.raises(SystemExit, match=r"-\| 4 \| 60.00 \| 73.13"):
        readme_tables.main(["--check"], [readme], tmp_path)


def test_mistyped_block_is_refused(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results: length gain -->\n<!-- end -->\n")
    with pytest.raises(UserError, match="results: length gain"):
        readme_tables.main(["--write"], [readme], tmp_path)
