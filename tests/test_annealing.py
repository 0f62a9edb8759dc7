"""Averaging against annealing: the pairs of groups, their tables and their figure."""

import numpy as np
from support.files import read_rows
from support.finished_runs import groups_of, write_rows, write_run

from analysis import annealing
from analysis.formatting import display_name

CONSTANT = {0: ([0.70, 0.80], [0.74, 0.86]), 1: ([0.71, 0.82], [0.75, 0.87]), 2: ([0.72, 0.84], [0.76, 0.88])}
COOLED = {0: ([0.70, 0.85], [0.74, 0.87]), 1: ([0.71, 0.86], [0.75, 0.88]), 2: ([0.72, 0.90], [0.76, 0.89]),
          5: ([0.1, 0.1], [0.1, 0.1])}  # fmt: skip


def write(tmp_path):
    for seed, (raw, ema) in CONSTANT.items():
        write_run(tmp_path / f"constant-{seed}", "--seed", seed, raw=raw, ema=ema)
    for seed, (raw, ema) in COOLED.items():
        write_run(tmp_path / f"cooled-{seed}", "--seed", seed, "--lr_cooldown", 1, raw=raw, ema=ema)
    write_run(tmp_path / "other", "--width", 0.5, "--lr_cooldown", 1)
    return groups_of(tmp_path)


def test_comparison_is_paired_by_seed(tmp_path):
    (pair,) = annealing.find_pairs(write(tmp_path))
    table = annealing.compare(pair)
    assert (pair.epoch, pair.cooldown) == (2, 1) and "3 seeds (0, 1, 2)" in table.caption
    assert [float(row[1].split()[0]) for row in table.rows] == [82, 87, 87, 88]
    # t of two degrees of freedom is 4.3027; the differences of the annealed raw weights are 5, 4 and 6 points.
    assert table.rows[2][2] == "+5.00 [+2.52, +7.48]"
    assert [row[3].split()[0] for row in table.rows] == ["-5.00", "-", "+0.00", "+1.00"]
    for row, label in zip(table.rows, 2 * ["raw", "ema/0.998/raw"], strict=True):
        assert row[0].endswith(f", {display_name(label)}")


def test_unfinished_run_drops_only_its_seed(tmp_path):
    write(tmp_path)
    stopped = tmp_path / "cooled-1"
    write_rows(stopped, read_rows(stopped)[:-1])
    (pair,) = annealing.find_pairs(groups_of(tmp_path))
    assert pair.cooled.seeds == pair.constant.seeds == [0, 2]
    assert str(stopped) in annealing.compare(pair).caption
    assert annealing.compare(pair).rows[2][2] == "+5.50 (+5.00, +6.00)"  # over the constant raw weights


def test_longer_constant_run_is_cut(tmp_path):
    """The average is chosen at the epoch where the cooldown ended."""
    test = {"raw": [0.5, 0.6, 0.9], "ema/0.9/raw": [0.5, 0.7, 0.8], "ema/0.99/raw": [0.5, 0.65, 0.95]}
    validation = {"raw": [0.5, 0.5, 0.5], "ema/0.9/raw": [0.5, 0.7, 0.8], "ema/0.99/raw": [0.5, 0.6, 0.9]}
    cut = [{label: curve[:2] for label, curve in curves.items()} for curves in (test, validation)]
    flags = ["--validation_size", 9]
    write_run(tmp_path / "constant", *flags, classifiers=test, validation=validation)
    write_run(tmp_path / "cooled", *flags, "--lr_cooldown", 1, classifiers=cut[0], validation=cut[1])
    (pair,) = annealing.find_pairs(groups_of(tmp_path))
    assert [row[1] for row in annealing.compare(pair).rows] == ["60.00", "70.00"] * 2


def test_figure_starts_where_the_rates_part(tmp_path):
    curve = {"raw": [0.5, 0.6, 0.7, 0.8], "ema": [0.55, 0.65, 0.75, 0.85]}
    for seed in range(2):
        write_run(tmp_path / f"constant-{seed}", "--seed", seed, **curve)
        write_run(tmp_path / f"cooled-{seed}", "--lr_cooldown", 1, "--seed", seed, **curve)
    (pair,) = annealing.find_pairs(groups_of(tmp_path))
    axes = annealing.annealing_axes(pair)
    bold = [line for line in axes.lines if line.get_linewidth() == 2]
    assert [list(line.get_xdata()) for line in bold] == [[2, 3, 4], [2, 3, 4], [3, 4], [3, 4]]
    heights = np.concatenate([line.get_ydata() for line in bold])
    np.testing.assert_allclose(heights, [60, 70, 80, 65, 75, 85, 70, 80, 75, 85])
    assert len({(line.get_color(), line.get_linestyle()) for line in bold}) == 4
    assert len(axes.lines) == 4 + 4 * 2  # means and seeds


def test_other_flags_make_no_pair(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "--lr_cooldown", 1, "--seed", 3)
    write_run(tmp_path / "c", "--lr_cooldown", 2, "--seed", 3)
    write_run(tmp_path / "d", "--lr_cooldown", 1, "--epochs", 4)
    assert annealing.find_pairs(groups_of(tmp_path)) == []
