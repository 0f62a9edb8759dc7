"""The report's tables: means, intervals and gains, each over the baseline that it names."""

import re

import numpy as np
import pytest
import scipy.stats
from support.files import read_rows
from support.finished_runs import groups_of, level, write_rows, write_run, write_seeds

from analysis import tables

FIVE = {
    "raw": 0.70, "raw/recomputed": 0.75,
    "ema/0.9/raw": 0.72, "ema/0.9/averaged": 0.76, "ema/0.9/recomputed": 0.79,
}  # fmt: skip


def numbers(cells):
    return [float(text) for text in re.findall(r"[-+]?\d[\d.]*", " ".join(cells))]


def test_a_number_on_the_edge_is_shown_alike_however_it_was_summed_up():
    assert tables.estimate(0.1 + 0.2 - 0.295, None) == tables.estimate(0.005, None)
    assert tables.estimate(-0.0050000000001, 0.1 + 0.2, "+") == tables.estimate(-0.0049999999999, 0.3, "+")


def test_what_rounds_to_nothing_has_no_minus():
    assert tables.shown(-0.004, "+") == tables.shown(0.004, "+") == "+0.00"
    assert tables.shown(-0.004) == "0.00" and tables.shown(-0.006, "+") == "-0.01"
    assert tables.shown(-0.004, digits=3) == "-0.004"


@pytest.mark.parametrize("against", ["raw", "raw/recomputed"])
def test_the_summary_is_that_of_scipy_and_the_gain_is_paired_with_its_baseline(tmp_path, random, against):
    policy = {"raw": "raw", "raw/recomputed": "recomputed"}[against]
    labels = ["raw", "raw/recomputed", f"ema/0.9/{policy}"]
    curves = dict(zip(labels, random.uniform(0.5, 0.9, (3, 4, 3)), strict=True))
    (group,) = groups_of(write_seeds(tmp_path, curves))
    table = tables.summary_table(group)
    assert "4 seeds (0, 1, 2, 3)" in table.caption and "epoch 3" in table.caption
    shown = [label for label in labels if label != "raw/recomputed" or label == against]
    last = {label: 100 * curve[:, -1] for label, curve in curves.items()}
    ema, baseline = last[labels[-1]], last[against]
    expected = [(last[one].mean(), *scipy.stats.ttest_1samp(last[one], 0).confidence_interval(0.95)) for one in shown]
    expected.append(((ema - baseline).mean(), *scipy.stats.ttest_rel(ema, baseline).confidence_interval(0.95)))
    assert [row[0] for row in table.rows] == [*(f"{label}, %" for label in shown), f"gain over {against}, points"]
    np.testing.assert_allclose([numbers(row[1:]) for row in table.rows], expected, atol=0.00501)


def test_every_gain_is_taken_against_the_classifiers_own_baseline(tmp_path):
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=level(FIVE)))
    table = tables.classifier_table(group)
    assert table.header == ["classifier", "accuracy, %", "95% interval", "gain, points", "95% interval", "against"]
    assert {row[0]: (row[3], row[5]) for row in table.rows} == {
        "raw": ("-", "-"),
        "raw/recomputed": ("+5.00", "raw"),
        "ema/0.9/raw": ("+2.00", "raw"),
        "ema/0.9/averaged": ("+6.00", "raw"),
        "ema/0.9/recomputed": ("+4.00", "raw/recomputed"),
    }


def test_without_the_fair_baseline_the_gain_is_over_raw_and_says_so(tmp_path):
    three = {label: FIVE[label] for label in ("raw", "ema/0.9/recomputed", "ema/0.9/raw")}
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=level(three)))
    assert tables.classifier_table(group).rows[1][3:] == ["+9.00", "-", "raw"]
    assert tables.summary_table(group).rows[-1][:2] == ["gain over raw, points", "+9.00"]


def test_raw_and_one_ema_need_no_second_table(tmp_path):
    (group,) = groups_of(write_run(tmp_path / "run"))
    assert tables.classifier_table(group) is None


def test_a_run_of_an_earlier_version_has_its_tables(tmp_path):
    path = write_run(tmp_path / "run")
    write_rows(path, [{key: row[key] for key in row if key != "classifiers"} for row in read_rows(path)])
    (group,) = groups_of(path)
    assert [row[:2] for row in tables.summary_table(group).rows] == [
        ["raw, %", "75.00"],
        ["EMA, %", "78.00"],
        ["gain over raw, points", "+3.00"],
    ]
    assert tables.run_table(group).header[3:6] == ["raw, %", "EMA, %", "gain over raw"]


def test_each_run_stands_with_its_gain_and_where_it_was_made(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"seed-{seed}", "--seed", seed, classifiers={
            "raw": [0.5], "raw/recomputed": [0.6], "ema/0.9/recomputed": [0.65 + 0.01 * seed]
        }, device=None)  # fmt: skip
    (group,) = groups_of(tmp_path)
    table = tables.run_table(group)
    assert table.header[1:7] == ["seed", "epochs", "raw, %", "raw/recomputed, %", "ema/0.9/recomputed, %",
                                 "gain over raw/recomputed"]  # fmt: skip
    assert [row[1:7] for row in table.rows] == [
        ["0", "1", "50.00", "60.00", "65.00", "+5.00"],
        ["1", "1", "50.00", "60.00", "66.00", "+6.00"],
    ]
    assert table.rows[0][7:] == ["float32", "unknown", "numpy 2.0.0", "c0ffee"]


def test_text_columns_line_up():
    table = tables.Table("what", ["", "mean"], [["raw", "7.00"], ["longer", "+12.00"]])
    assert tables.as_text(table) == "what\n          mean\nraw       7.00\nlonger  +12.00"
