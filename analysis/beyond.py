"""What accuracy does not say: test loss, calibration and churn between seeds, of the primary EMA and its baseline.

They are the statistics in which averaged weights have been found to differ most (Morales-Brotons et al. 2024).
"""

from typing import NamedTuple

import numpy as np

from analysis.statistics import (
    churn,
    cross_entropy,
    expected_calibration_error,
    log_softmax,
    mean_interval,
    pairs_interval,
)


class Measure(NamedTuple):
    """Means over seeds, and the EMA's less the baseline's, paired by seed, with half of its 95% interval or None."""

    baseline: float
    ema: float
    difference: float
    half: float | None


class Beyond(NamedTuple):
    runs: list  # of FinishedRun: those whose predictions could be compared
    measures: dict  # "accuracy", "loss", "calibration", with two seeds or more "churn": each a Measure
    left_out: list  # phrases: which runs are not among them, and why

    @property
    def notes(self):
        """Sentences for the reader."""
        return [f"Not in the measures beyond accuracy: {'; '.join(self.left_out)}."] if self.left_out else []


def measure(group, found, missing):
    """Measures the runs of a group by their predictions.

    A run counts whose predictions are those of the group's primary EMA and baseline, after the epoch that its tables
    show, on the test images of the first such run.

    Args:
      found, missing: of `predictions.read_all`.

    Returns:
      Beyond; without measures where no run counts, and silent where no predictions were found: the gallery says why.
    """
    counted, left_out = [], list(missing) if found else []
    for one in found:
        if reason := _why_not(one, group, counted):
            left_out.append(f"the predictions of {one.run.path} are {reason}")
        else:
            counted.append(one)
    return Beyond([one.run for one in counted], _measures(counted) if counted else {}, left_out)


def _why_not(one, group, counted):
    """Why these predictions cannot be compared with those counted already; None where they can."""
    if group.primary is None:
        return "of a classifier that metrics.jsonl does not name"
    if (one.primary, one.against) != (group.primary, group.against):
        return f"of {one.primary} and {one.against}, not of {group.name} and {group.against}"
    if one.epoch != group.epochs[-1]:
        return f"of epoch {one.epoch}, not {group.epochs[-1]}"
    if counted and not np.array_equal(one.labels, counted[0].labels):
        return f"of other test images than those of {counted[0].run.path}"
    return None


def _measures(counted):
    """Name to Measure, of Predictions on the same images."""
    measures = {
        name: _per_seed(function, counted)
        for name, function in (("accuracy", accuracy), ("loss", cross_entropy), ("calibration", calibration_error))
    }
    if len(counted) > 1:
        measures["churn"] = _churn(counted)
    return measures


def accuracy(logits, labels):
    return (logits.argmax(1) == labels).mean()


def calibration_error(logits, labels):
    return expected_calibration_error(np.exp(log_softmax(logits)), labels)


def _per_seed(function, counted):
    values = np.array([[function(logits, one.labels) for logits in (one.baseline, one.ema)] for one in counted])
    difference, half = mean_interval(values[:, 1] - values[:, 0])
    return Measure(*values.mean(0), difference, half)


def _churn(counted):
    """Baseline against baseline, EMA against EMA; the difference of two means over pairs is a mean over pairs too."""
    answers = np.array([[one.baseline.argmax(1), one.ema.argmax(1)] for one in counted])  # [S, 2, N]
    difference, half = pairs_interval(lambda some: churn(some[:, 1]) - churn(some[:, 0]), answers)
    return Measure(churn(answers[:, 0]), churn(answers[:, 1]), difference, half)
