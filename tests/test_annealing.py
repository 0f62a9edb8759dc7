"""Averaging against annealing: which runs are compared, and with what."""

import json

import numpy as np
from support.files import read_rows
from support.finished_runs import write_rows, write_run

import report
from analysis import annealing, finished, groups

CONSTANT = {0: ([0.70, 0.80], [0.74, 0.86]), 1: ([0.71, 0.82], [0.75, 0.87])}
COOLED = {0: ([0.70, 0.85], [0.74, 0.87]), 1: ([0.71, 0.86], [0.75, 0.88]), 5: ([0.1, 0.1], [0.1, 0.1])}


def write(tmp_path):
    for seed, (raw, ema) in CONSTANT.items():
        write_run(tmp_path / f"constant-{seed}", "--seed", seed, raw=raw, ema=ema)
    for seed, (raw, ema) in COOLED.items():
        write_run(tmp_path / f"cooled-{seed}", "--seed", seed, "--lr_cooldown", 1, raw=raw, ema=ema)
    write_run(tmp_path / "other", "--width", 0.5, "--lr_cooldown", 1)
    return groups.make_groups([finished.read_run(path) for path in finished.expand([tmp_path])])


def test_runs_that_differ_by_the_cooldown_alone_are_compared_seed_by_seed(tmp_path):
    (pair,) = annealing.find_pairs(write(tmp_path))
    table = annealing.compare(pair)
    assert "after epoch 2, the last 1 of them cooled down; paired over 2 seeds (0, 1)" in table.caption
    means = [float(row[1]) for row in table.rows]
    np.testing.assert_allclose(means, [81.0, 86.5, 85.5, 87.5])
    assert [row[0] for row in table.rows] == [
        "constant rate, raw",
        "constant rate, ema/0.998/raw",
        "annealed, raw",
        "annealed, ema/0.998/raw",
    ]
    # t of one degree of freedom is 12.706; the differences of the annealed raw weights are 5 and 4 points.
    assert table.rows[2][3:5] == ["+4.50", "[-1.85, +10.85]"]
    assert [row[5] for row in table.rows] == ["-5.50", "-", "-1.00", "+1.00"]


def test_the_report_prints_and_keeps_the_comparison(tmp_path, capsys):
    write(tmp_path / "runs")
    report.main([str(tmp_path / "runs"), "--output", str(tmp_path / "out")])
    assert "Averaging and annealing" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["annealing"][0]["rows"][1][1] == "86.50"
    assert len(content["groups"]) == 3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Averaging and annealing" in page and "falls to 0 over the last 1 of 2 epochs" in page
    assert {"annealing.png", "annealing.svg"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_the_figure_draws_the_seeds_that_both_have(tmp_path):
    (pair,) = annealing.find_pairs(write(tmp_path))
    axes = annealing.annealing_figure(pair).axes[0]
    bold = {line.get_label().split(", ")[0] + line.get_label().split(", ")[1]: line for line in axes.lines
            if line.get_linewidth() == 2}  # fmt: skip
    drawn = {name: (list(line.get_xdata()), line.get_ydata()) for name, line in bold.items()}
    means = {"constant rateraw": [70.5, 81.0], "constant rateema/0.998/raw": [74.5, 86.5]}
    means |= {"annealedraw": [70.5, 85.5], "annealedema/0.998/raw": [74.5, 87.5]}
    assert drawn.keys() == means.keys()
    for name, mean in means.items():
        assert drawn[name][0] == [1, 2]
        np.testing.assert_allclose(drawn[name][1], mean)
    assert len({(line.get_color(), line.get_linestyle()) for line in bold.values()}) == 4
    assert len(axes.lines) == 4 + 4 * 2  # and each seed


def test_the_figure_begins_where_the_rates_part(tmp_path):
    curve = {"raw": [0.5, 0.6, 0.7, 0.8], "ema": [0.5, 0.6, 0.7, 0.8]}
    write_run(tmp_path / "constant", **curve)
    write_run(tmp_path / "cooled", "--lr_cooldown", 1, **curve)
    found = groups.make_groups([finished.read_run(tmp_path / name) for name in ("constant", "cooled")])
    (pair,) = annealing.find_pairs(found)
    drawn = [list(line.get_xdata()) for line in annealing.annealing_figure(pair).axes[0].lines]
    assert drawn == [[2, 3, 4], [2, 3, 4], [3, 4], [3, 4]]


def test_other_runs_are_not_compared(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "--lr_cooldown", 1, "--seed", 3)
    found = groups.make_groups([finished.read_run(tmp_path / name) for name in "ab"])
    assert annealing.find_pairs(found) == []


def test_a_cooldown_that_has_not_ended_is_not_compared(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"constant-{seed}", "--seed", seed)
        cooled = write_run(tmp_path / f"cooled-{seed}", "--seed", seed, "--lr_cooldown", 1)
    found = [finished.read_run(path) for path in finished.expand([tmp_path])]
    assert len(annealing.find_pairs(groups.make_groups(found))) == 1
    write_rows(cooled, read_rows(cooled)[:-1])
    found = [finished.read_run(path) for path in finished.expand([tmp_path])]
    assert annealing.find_pairs(groups.make_groups(found)) == []
