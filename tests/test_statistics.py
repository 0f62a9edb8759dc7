"""The statistics against SciPy and against plain loops."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from analysis import statistics

counts = st.integers(1, 5000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))
logits = arrays.arrays(np.float32, (7, 4), elements=st.floats(-1e4, 1e4, width=32))


@given(counts)
def test_wilson_interval_is_scipys(count):
    correct, total = count
    expected = scipy.stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert statistics.wilson_interval(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_interval_stays_within_0_and_1():
    assert statistics.wilson_interval(0, 1)[0] == 0
    assert statistics.wilson_interval(1, 1)[1] == 1


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_p_value_is_the_exact_binomial_tests(fixed, broken):
    expected = scipy.stats.binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    assert statistics.mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-9)
    assert statistics.mcnemar_p_value(fixed, broken) == statistics.mcnemar_p_value(broken, fixed)


def test_mcnemar_p_value_of_many_flips_is_no_overflow():
    assert 0 <= statistics.mcnemar_p_value(0, 10_000) < 1e-300
    assert statistics.mcnemar_p_value(5000, 5000) == 1


@given(logits)
def test_log_softmax_is_scipys(values):
    expected = scipy.special.log_softmax(values.astype(np.float64), axis=1)
    assert statistics.log_softmax(values).dtype == np.float64
    np.testing.assert_allclose(statistics.log_softmax(values), expected, rtol=1e-12, atol=1e-12)


def calibration_error_by_a_loop(probabilities, labels, bins):
    """Guo et al. 2017, equation 3, image by image; bins are [k/bins, (k+1)/bins), the last one closed."""
    members = {}
    for row, label in zip(probabilities, labels, strict=True):
        confidence = max(row)
        which = min(int(confidence * bins), bins - 1)
        members.setdefault(which, []).append((confidence, float(list(row).index(confidence) == label)))
    error = 0.0
    for pairs in members.values():
        accuracy = sum(right for _, right in pairs) / len(pairs)
        confidence = sum(confidence for confidence, _ in pairs) / len(pairs)
        error += len(pairs) / len(labels) * abs(accuracy - confidence)
    return error


@given(logits, st.integers(1, 20), st.randoms(use_true_random=False))
def test_expected_calibration_error_is_that_of_a_plain_loop(values, bins, random):
    probabilities = scipy.special.softmax(values.astype(np.float64) / 1e4, axis=1)
    labels = np.array([random.randrange(4) for _ in probabilities])
    expected = calibration_error_by_a_loop(probabilities, labels, bins)
    assert statistics.expected_calibration_error(probabilities, labels, bins) == pytest.approx(expected, abs=1e-12)


def test_certain_and_right_is_calibrated_certain_and_wrong_is_not():
    certain = np.eye(3)
    assert statistics.expected_calibration_error(certain, np.array([0, 1, 2])) == 0
    assert statistics.expected_calibration_error(certain, np.array([1, 2, 0])) == 1


def test_compare_by_hand():
    raw = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    ema = np.array([[0.0, 2.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    labels = np.array([1, 1, 0, 1])
    first, second = statistics.compare({"raw": raw, "ema/0.9/raw": ema}, labels)
    assert (first["label"], first["accuracy"], first["p_value"], first["fixed"]) == ("raw", 0.5, None, None)
    assert (second["accuracy"], second["fixed"], second["broken"], second["p_value"]) == (0.75, 2, 1, 1.0)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert first["loss"] == pytest.approx((2 * right + 2 * wrong) / 4)
    assert second["loss"] == pytest.approx((3 * right + wrong) / 4)
    assert first["low"] < 0.5 < first["high"]
