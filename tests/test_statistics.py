"""The statistics against published tables, closed forms, exact integer sums, plain loops and simulation."""

import math
from fractions import Fraction
from statistics import NormalDist

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from analysis import statistics

counts = st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
logits = arrays.arrays(np.float32, (7, 4), elements=st.floats(-1e4, 1e4, width=32))

# Two-sided 95%, as printed in Abramowitz & Stegun, Handbook of Mathematical Functions, table 26.10.
TABULATED = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228, 15: 2.131,
             20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980}  # fmt: skip


@pytest.mark.parametrize("freedom", TABULATED)
def test_interval_has_the_tabulated_t(freedom):
    values = np.arange(freedom + 1.0)
    mean, half = statistics.mean_interval(values)
    assert mean == freedom / 2
    error = math.sqrt(np.sum((values - mean) ** 2) / freedom / (freedom + 1))
    assert half / error == pytest.approx(TABULATED[freedom], abs=0.0005)


@pytest.mark.parametrize("values", [[[0.5, 0.7]], [[0.4, 0.9], [0.6, 0.5]]])
def test_no_interval_below_three_seeds(values):
    mean, half = statistics.mean_interval(values)
    np.testing.assert_allclose(mean, [0.5, 0.7])
    assert half is None


@given(arrays.arrays(np.int64, st.tuples(st.integers(2, 6), st.integers(1, 8)), elements=st.integers(0, 2)))
def test_churn_counted_image_by_image(answers):
    """Of S seeds, k_c of which answer c, S^2 - sum k_c^2 ordered pairs of the S (S - 1) disagree."""
    seeds, images = answers.shape
    disagreeing = sum(
        seeds**2 - sum(int((answers[:, image] == kind).sum()) ** 2 for kind in range(3)) for image in range(images)
    )
    assert statistics.churn(answers) == pytest.approx(disagreeing / (seeds * (seeds - 1)) / images)


def test_jackknife_of_a_mean(random):
    """Pseudo-values of a mean are the values themselves."""
    values = random.normal(size=6)
    assert statistics.pairs_interval(np.mean, values) == pytest.approx(statistics.mean_interval(values))
    assert statistics.pairs_interval(np.mean, np.array([1.0, 2.0])) == (1.5, None)


def test_jackknife_covers_pairs(random):
    def distances(points):
        return np.array([abs(points[i] - points[j]) for i in range(len(points)) for j in range(i)])

    expected, covered, naive = 2 / math.sqrt(math.pi), [], []  # the mean distance of two standard normal draws
    for points in random.normal(size=(1500, 6)):
        value, half = statistics.pairs_interval(lambda sample: distances(sample).mean(), points)
        covered.append(abs(value - expected) < half)
        mean, half = statistics.mean_interval(distances(points))
        naive.append(abs(mean - expected) < half)
    assert np.mean(covered) > 0.91
    assert np.mean(naive) < 0.87


@given(counts)
def test_wilson_interval_inverts_the_score_test(count):
    """Its ends are the p with (share - p)^2 = z^2 p (1 - p) / n; an end of all or none is 0 or 1 itself."""
    correct, total = count
    share, z2 = correct / total, NormalDist().inv_cdf(0.975) ** 2
    low, high = statistics.wilson_interval(correct, total)
    assert 0 <= low <= share <= high <= 1 and low < high
    for end in {low, high} - {0, 1}:
        assert (share - end) ** 2 == pytest.approx(z2 * end * (1 - end) / total, rel=1e-6, abs=1e-12)


def test_wilson_interval_as_published():
    """Newcombe 1998, Statistics in Medicine 17, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    intervals = [statistics.wilson_interval(*count) for count in ((81, 263), (15, 148), (0, 20), (1, 29))]
    expected = [(0.2553, 0.3662), (0.0624, 0.1605), (0.0, 0.1611), (0.0061, 0.1718)]
    np.testing.assert_allclose(intervals, expected, atol=0.00005)


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_p_value_is_exact(fixed, broken):
    flips = fixed + broken
    tail = sum(math.comb(flips, heads) for heads in range(min(fixed, broken) + 1))
    expected = float(min(Fraction(1), Fraction(2 * tail, 2**flips)))
    assert statistics.mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-9)
    assert statistics.mcnemar_p_value(fixed, broken) == statistics.mcnemar_p_value(broken, fixed)


@given(logits)
def test_log_softmax_agrees_with_scipy(values):
    expected = scipy.special.log_softmax(values.astype(np.float64), axis=1)
    assert statistics.log_softmax(values).dtype == np.float64
    np.testing.assert_allclose(statistics.log_softmax(values), expected, rtol=1e-12, atol=1e-12)


def test_cross_entropy_by_hand():
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    values = np.array([[2.0, 0.0], [0.0, 2.0], [5.0, 5.0]], np.float32)
    expected = (right + wrong + math.log(2)) / 3
    assert statistics.cross_entropy(values, np.array([0, 0, 1])) == pytest.approx(expected)


def calibration_error_by_a_loop(probabilities, labels, bins):
    """Guo et al. 2017, equation 3, image by image; bins are [k/bins, (k+1)/bins), the last one closed."""
    members = {}
    for row, label in zip(probabilities, labels, strict=True):
        confidence = max(row)
        index = min(int(confidence * bins), bins - 1)
        members.setdefault(index, []).append((confidence, float(list(row).index(confidence) == label)))
    error = 0.0
    for pairs in members.values():
        accuracy = sum(right for _, right in pairs) / len(pairs)
        confidence = sum(confidence for confidence, _ in pairs) / len(pairs)
        error += len(pairs) / len(labels) * abs(accuracy - confidence)
    return error


@given(logits, st.integers(1, 20), st.randoms(use_true_random=False))
def test_calibration_error_agrees_with_a_loop(values, bins, random):
    values = values.astype(np.float64) / 1e4
    labels = np.array([random.randrange(4) for _ in values])
    expected = calibration_error_by_a_loop(np.exp(statistics.log_softmax(values)), labels, bins)
    assert statistics.calibration_error(values, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_calibration_bins():
    certain, nearly, less = [1000.0, 0.0], [math.log(0.95 / 0.05), 0.0], [math.log(0.90 / 0.10), 0.0]
    error = statistics.calibration_error(np.array([certain, nearly]), np.array([1, 0]))
    assert error == pytest.approx(abs((1.0 - 0) + (0.95 - 1)) / 2)
    error = statistics.calibration_error(np.array([less, nearly]), np.array([1, 0]))  # 14/15 lies between them
    assert error == pytest.approx((abs(0.90 - 0) + abs(0.95 - 1)) / 2)


def test_compare_by_hand():
    raw = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    ema = np.array([[0.0, 2.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    first, second = statistics.compare({"raw": raw, "ema/0.9/raw": ema}, np.array([1, 1, 0, 1]))
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert (first["accuracy"], second["accuracy"]) == (0.5, 0.75)
    assert first["loss"] == pytest.approx((2 * right + 2 * wrong) / 4)
    assert second["loss"] == pytest.approx((3 * right + wrong) / 4)
    assert first["low"] < 0.5 < first["high"]


def test_compare_uses_each_own_baseline():
    def answers(*classes):
        return np.eye(3)[list(classes)]

    rows = statistics.compare(
        {
            "raw": answers(0, 1, 1, 1, 1, 1),
            "raw/recomputed": answers(1, 0, 0, 0, 1, 1),
            "ema/0.9/raw": answers(0, 0, 0, 1, 1, 1),
            "ema/0.9/averaged": answers(1, 0, 0, 0, 0, 1),
            "ema/0.9/recomputed": answers(1, 1, 0, 0, 0, 0),
        },
        np.array([0, 0, 0, 0, 0, 0]),
    )
    assert {row["label"]: (row["against"], row["fixed"], row["broken"], row["p_value"]) for row in rows} == {
        "raw": (None, None, None, None),
        "raw/recomputed": ("raw", 3, 1, pytest.approx(2 * (1 + 4) / 16)),
        "ema/0.9/raw": ("raw", 2, 0, pytest.approx(2 / 4)),
        "ema/0.9/averaged": ("raw", 4, 1, pytest.approx(2 * (1 + 5) / 32)),
        "ema/0.9/recomputed": ("raw/recomputed", 2, 1, 1),
    }
    keys = ["label", "accuracy", "low", "high", "loss", "ece", "fixed", "broken", "p_value", "against"]
    assert all(list(row) == keys for row in rows)
