"""The report's tables: means, intervals and gains against SciPy, plain loops and sums by hand."""

import itertools
import re

import numpy as np
import pytest
import scipy.stats
from support.finished_runs import groups_of, level, write_predictions, write_run, write_seeds

from analysis import formatting
from analysis.groups import predictions_of
from analysis.statistics import calibration_error


def numbers(cells):
    return [float(text) for text in re.findall(r"[-+]?\d[\d.]*", " ".join(cells))]


def test_a_number_on_the_edge_is_shown_alike_however_it_was_summed_up():
    assert formatting.shown(0.1 + 0.2 - 0.295) == formatting.shown(0.005)
    assert formatting.with_interval(-0.0050000000001, 0.1 + 0.2, "+") == formatting.with_interval(
        -0.0049999999999, 0.3, "+"
    )


def test_what_rounds_to_nothing_has_no_minus():
    assert formatting.shown(-0.004, "+") == formatting.shown(0.004, "+") == "+0.00"
    assert formatting.shown(-0.004) == "0.00" and formatting.shown(-0.006, "+") == "-0.01"
    assert formatting.shown(-0.004, digits=3) == "-0.004"


def test_from_three_seeds_on_there_is_an_interval_below_there_are_the_values():
    assert formatting.over_seeds(np.array([1.5])) == "1.50"
    assert formatting.over_seeds(np.array([1.0, 3.0]), "+") == "+2.00 (+1.00, +3.00)"
    assert formatting.over_seeds(np.array([1.0, 2.0, 3.0])) == "2.00 [-0.48, 4.48]"  # t of 2 degrees: 4.303 / sqrt 3


@pytest.mark.parametrize("policy", ["raw", "recomputed", "averaged"])
def test_accuracy_and_gain_are_those_of_scipy_the_gain_paired_with_its_own_baseline(tmp_path, random, policy):
    labels = ["raw", "raw/recomputed", f"ema/0.9/{policy}"]
    curves = dict(zip(labels, random.uniform(0.5, 0.9, (3, 4, 3)), strict=True))
    (group,) = groups_of(write_seeds(tmp_path, curves))
    table = formatting.accuracy_table(group)
    assert "4 seeds (0, 1, 2, 3)" in table.caption and "epoch 3" in table.caption
    assert [row[0] for row in table.rows] == [
        *map(formatting.display_name, labels[:2]),
        f"{formatting.display_name(labels[2])} *",
    ]
    raw, recomputed, ema = (100 * curve[:, -1] for curve in curves.values())
    baseline = recomputed if policy == "recomputed" else raw
    for row, values, against in zip(table.rows, (raw, recomputed, ema), (None, raw, baseline), strict=True):
        expected = [values.mean(), *scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)]
        np.testing.assert_allclose(numbers([row[1]]), expected, atol=0.00501)
        if against is not None:
            interval = scipy.stats.ttest_rel(values, against).confidence_interval(0.95)
            np.testing.assert_allclose(numbers([row[2]]), [(values - against).mean(), *interval], atol=0.00501)
    assert [row[3] for row in table.rows] == [
        "-", formatting.display_name("raw"), formatting.display_name("raw/recomputed" if policy == "recomputed" else "raw")
    ]  # fmt: skip


def test_each_run_stands_with_its_gain_and_where_it_was_made(tmp_path):
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


def test_columns_of_words_stand_left_and_of_numbers_right():
    table = formatting.Table("what", ["", "mean", "over"], [["raw", "7.00", "-"], ["longer", "+12.00", "raw"]])
    assert formatting.as_text(table) == "what\n          mean  over\nraw       7.00  -\nlonger  +12.00  raw"
    assert formatting.as_text(table._replace(caption="")).startswith("          mean")
    assert formatting.as_markdown(table).splitlines()[1:3] == ["| --- | ---: | --- |", "| raw | 7.00 | - |"]


BOTH = ("raw/recomputed", "ema/0.9/recomputed")


@pytest.fixture
def four(tmp_path, random):
    """(directory, labels [N], logits [4, 2, N, 10]) of four seeds, baseline and average; the average's are better."""
    labels = random.integers(0, 10, 200)
    logits = random.normal(size=(4, 2, 200, 10))
    logits[:, :, np.arange(200), labels] += np.array([1.0, 2.0])[:, None]
    others = np.eye(10)[(labels + 1) % 10]  # of classifiers that are not to be read
    for seed in range(4):
        path = write_run(tmp_path / f"seed-{seed}", "--seed", seed, classifiers=level(
            {"raw": 0.5, "raw/recomputed": 0.6, "ema/0.9/recomputed": 0.7, "ema/0.9/raw": 0.65}
        ))  # fmt: skip
        answers = {"raw": others, "ema/0.9/raw": others, **dict(zip(BOTH, logits[seed], strict=True))}
        write_predictions(path, labels, answers)
    return tmp_path, labels, logits


def measured(*paths):
    """The numbers of the table: name of a row to [baseline, average, difference, low, high]."""
    (group,) = groups_of(*paths)
    table = formatting.predictions_table(group, predictions_of(group)[0])
    return {row[0].partition(",")[0]: numbers(row[1:]) for row in table.rows}


def test_loss_and_calibration_are_means_over_seeds_and_their_differences_are_paired(four):
    path, labels, logits = four
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    loss = -np.log(chances[:, :, np.arange(200), labels]).mean(-1)
    errors = np.array([[calibration_error(one, labels) for one in both] for both in logits])
    for name, values, atol in (("test loss", loss, 0.000051), ("calibration error", 100 * errors, 0.0051)):
        low, high = scipy.stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval(0.95)
        baseline, average = values.mean(0)
        np.testing.assert_allclose(measured(path)[name], [baseline, average, average - baseline, low, high], atol=atol)


def test_churn_is_between_seeds_of_one_classifier_over_all_pairs(four):
    path, _, logits = four
    answers = logits.argmax(-1)
    shares = np.zeros((2, 4, 4))
    for which, one, other in itertools.product(range(2), range(4), range(4)):
        shares[which, one, other] = sum(answers[one, which] != answers[other, which]) / 200
    baseline, average = shares.sum((1, 2)) / (4 * 3)
    # The jackknife by its textbook form: (S - 1) / S of the squared deviations of the leave-one-out values.
    gap = shares[1] - shares[0]
    without = [np.delete(np.delete(gap, seed, 0), seed, 1).sum() / (3 * 2) for seed in range(4)]
    half = 3.182446305 * np.sqrt(3 / 4 * np.sum((np.array(without) - np.mean(without)) ** 2))  # t at 3 degrees
    gain = average - baseline
    expected = 100 * np.array([baseline, average, gain, gain - half, gain + half])
    np.testing.assert_allclose(measured(path)["churn between seeds"], expected, atol=0.0051)


def test_two_seeds_have_churn_without_an_interval_and_one_has_none(four):
    path, _, _ = four
    two = measured(path / "seed-0", path / "seed-1")
    assert len(two["churn between seeds"]) == 3 and len(two["test loss"]) == 5
    assert np.mean(two["test loss"][3:]) == pytest.approx(two["test loss"][2], abs=0.0001)  # each seed's
    assert list(measured(path / "seed-0")) == ["test loss", "calibration error"]
    assert formatting.predictions_table(groups_of(path)[0], []) is None
