"""The report's tables: means, intervals and gains against SciPy, plain loops and sums by hand."""

import itertools
import re

import numpy as np
import pytest
import scipy.stats
from support.finished_runs import constant, groups_of, write_predictions, write_run, write_seeds

from analysis import formatting
from analysis.groups import predictions_of
from analysis.statistics import calibration_error


def numbers(cells):
    return [float(text) for text in re.findall(r"[-+]?\d[\d.]*", " ".join(cells))]


def test_rounding_ignores_summation_order():
    assert formatting.format_number(0.1 + 0.2 - 0.295) == formatting.format_number(0.005)
    texts = {formatting.with_interval(*pair, "+") for pair in ((-0.0050000000001, 0.1 + 0.2), (-0.0049999999999, 0.3))}
    assert len(texts) == 1


def test_no_minus_zero():
    assert formatting.format_number(-0.004, "+") == formatting.format_number(0.004, "+") == "+0.00"
    assert formatting.format_number(-0.004) == "0.00" and formatting.format_number(-0.006, "+") == "-0.01"
    assert formatting.format_number(-0.004, digits=3) == "-0.004"


def test_intervals_from_three_seeds():
    assert formatting.over_seeds(np.array([1.5])) == "1.50"
    assert formatting.over_seeds(np.array([1.0, 3.0]), "+") == "+2.00 (+1.00, +3.00)"
    assert formatting.over_seeds(np.array([1.0, 2.0, 3.0])) == "2.00 [-0.48, 4.48]"  # t of 2 degrees: 4.303 / sqrt 3


@pytest.mark.parametrize("policy", ["raw", "recomputed", "averaged"])
def test_accuracy_table_agrees_with_scipy(tmp_path, random, policy):
    labels = ["raw", "raw/recomputed", f"ema/0.9/{policy}"]
    curves = dict(zip(labels, random.uniform(0.5, 0.9, (3, 4, 3)), strict=True))
    (group,) = groups_of(write_seeds(tmp_path, curves))
    table = formatting.accuracy_table(group)
    assert "4 seeds (0, 1, 2, 3)" in table.caption and "epoch 3" in table.caption
    names = list(map(formatting.display_name, labels))
    assert [row[0] for row in table.rows] == [*names[:2], f"{names[2]} *"]
    raw, recomputed, ema = (100 * curve[:, -1] for curve in curves.values())
    baseline = recomputed if policy == "recomputed" else raw
    for row, values, reference in zip(table.rows, (raw, recomputed, ema), (None, raw, baseline), strict=True):
        expected = [values.mean(), *scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)]
        np.testing.assert_allclose(numbers([row[1]]), expected, atol=0.00501)
        if reference is not None:
            interval = scipy.stats.ttest_rel(values, reference).confidence_interval(0.95)
            np.testing.assert_allclose(numbers([row[2]]), [(values - reference).mean(), *interval], atol=0.00501)
    assert [row[3] for row in table.rows] == ["-", names[0], names[1] if policy == "recomputed" else names[0]]


def test_run_table(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"seed-{seed}", "--seed", seed, classifiers={
            "raw": [0.5], "raw/recomputed": [0.6], "ema/0.9/recomputed": [0.65 + 0.01 * seed]
        }, device=None)  # fmt: skip
    table = formatting.run_table(groups_of(tmp_path)[0])
    assert [row[1:7] for row in table.rows] == [
        ["0", "1", "50.00", "60.00", "65.00", "+5.00"],
        ["1", "1", "50.00", "60.00", "66.00", "+6.00"],
    ]
    assert table.rows[0][7:] == ["float32", "unknown", "c0ffee", "numpy 2.0.0"]
    assert len(table.header) == len(table.rows[0])


def test_text_and_markdown_alignment():
    table = formatting.Table("what", ["", "mean", "over"], [["raw", "7.00", "-"], ["longer", "+12.00", "raw"]])
    assert formatting.as_text(table) == "what\n          mean  over\nraw       7.00  -\nlonger  +12.00  raw"
    assert formatting.as_text(table._replace(caption="")).startswith("          mean")
    assert formatting.as_markdown(table).splitlines()[1:3] == ["| --- | ---: | --- |", "| raw | 7.00 | - |"]


BOTH = ("raw/recomputed", "ema/0.9/recomputed")


@pytest.fixture
def four(tmp_path, random):
    """Four seeds with predictions: (directory, labels [N], logits [4, 2, N, 10] of baseline and average)."""
    labels = random.integers(0, 10, 200)
    logits = random.normal(size=(4, 2, 200, 10))
    logits[:, :, np.arange(200), labels] += np.array([1.0, 2.0])[:, None]
    unused = np.eye(10)[(labels + 1) % 10]  # of classifiers that the table does not read
    for seed in range(4):
        path = write_run(tmp_path / f"seed-{seed}", "--seed", seed, classifiers=constant(
            {"raw": 0.5, "raw/recomputed": 0.6, "ema/0.9/recomputed": 0.7, "ema/0.9/raw": 0.65}
        ))  # fmt: skip
        answers = {"raw": unused, "ema/0.9/raw": unused, **dict(zip(BOTH, logits[seed], strict=True))}
        write_predictions(path, labels, answers)
    return tmp_path, labels, logits


def measured(*paths):
    """Returns {row name: [baseline, average, difference, low, high]} of the predictions table."""
    (group,) = groups_of(*paths)
    table = formatting.predictions_table(group, predictions_of(group)[0])
    return {row[0].partition(",")[0]: numbers(row[1:]) for row in table.rows}


def test_loss_and_calibration_are_paired(four):
    path, labels, logits = four
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    loss = -np.log(probabilities[:, :, np.arange(200), labels]).mean(-1)
    errors = np.array([[calibration_error(values, labels) for values in pair] for pair in logits])
    for name, values, atol in (("test loss", loss, 0.000051), ("calibration error", 100 * errors, 0.0051)):
        low, high = scipy.stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval(0.95)
        baseline, average = values.mean(0)
        np.testing.assert_allclose(measured(path)[name], [baseline, average, average - baseline, low, high], atol=atol)


def test_churn_and_its_jackknife(four):
    path, _, logits = four
    answers = logits.argmax(-1)
    shares = np.zeros((2, 4, 4))
    for index, first, second in itertools.product(range(2), range(4), range(4)):
        shares[index, first, second] = sum(answers[first, index] != answers[second, index]) / 200
    baseline, average = shares.sum((1, 2)) / (4 * 3)
    # The jackknife in its textbook form: (S - 1) / S of the squared deviations of the leave-one-out values.
    gap = shares[1] - shares[0]
    without = [np.delete(np.delete(gap, seed, 0), seed, 1).sum() / (3 * 2) for seed in range(4)]
    half = 3.182446305 * np.sqrt(3 / 4 * np.sum((np.array(without) - np.mean(without)) ** 2))  # t at 3 degrees
    gain = average - baseline
    expected = 100 * np.array([baseline, average, gain, gain - half, gain + half])
    np.testing.assert_allclose(measured(path)["churn between seeds"], expected, atol=0.0051)


def test_churn_of_few_seeds(four):
    path, _, _ = four
    two = measured(path / "seed-0", path / "seed-1")
    assert len(two["churn between seeds"]) == 3 and len(two["test loss"]) == 5
    assert np.mean(two["test loss"][3:]) == pytest.approx(two["test loss"][2], abs=0.0001)  # each seed's
    assert list(measured(path / "seed-0")) == ["test loss", "calibration error"]
