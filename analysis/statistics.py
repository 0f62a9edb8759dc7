"""Quality of classifiers and its uncertainty: intervals, calibration, churn, paired comparison."""

import itertools
import math

import numpy as np
import scipy  # scipy.stats takes most of a second to import, so it is imported on first use

from training.labels import baseline_of

CONFIDENCE = 0.95
INTERVAL_FROM = 3  # seeds; the t-interval of two is 18 standard errors long


def mean_interval(values):
    """Returns the mean [...] over seeds of values [S, ...] and half the width of its 95% t-interval.

    The half is None below INTERVAL_FROM seeds. For a paired comparison, pass the differences seed by seed.
    """
    values = np.asarray(values, np.float64)
    seeds = len(values)
    if seeds < INTERVAL_FROM:
        return values.mean(0), None
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)
    return values.mean(0), t * values.std(0, ddof=1) / math.sqrt(seeds)


def churn(classes):
    """Returns the fraction of images on which two seeds disagree, averaged over all pairs (Milani Fard et al. 2016).

    `classes` [S, N] is the prediction of each of S >= 2 seeds for each image.
    """
    return float(np.mean([(first != second).mean() for first, second in itertools.combinations(classes, 2)]))


def pairs_interval(statistic, values):
    """Returns a mean over all pairs of seeds, such as `churn`, and half the width of its 95% interval.

    Pairs that share a seed are not independent, so a t-interval over the S (S - 1) / 2 pairs would be too narrow.
    Tukey's jackknife leaves out one seed at a time: with u the statistic of all seeds and u_i that of all but seed i,
    the pseudo-values S u - (S - 1) u_i have mean u. The t-interval over these S values is valid for a mean over pairs,
    a U-statistic (Arvesen 1969). With few seeds it is conservative (Efron & Stein 1981).

    `statistic` maps the values [S, ...] of S >= 2 seeds to a float. The half is None below INTERVAL_FROM seeds.
    """
    value, seeds = statistic(values), len(values)
    if seeds < INTERVAL_FROM:
        return value, None
    without_one = np.array([statistic(np.delete(values, seed, 0)) for seed in range(seeds)])
    _, half = mean_interval(seeds * value - (seeds - 1) * without_one)
    return value, float(half)


def wilson_interval(correct, total):
    """Returns the 95% interval (low, high) of Wilson (1927) for the proportion correct / total."""
    low, high = scipy.stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def mcnemar_p_value(fixed, broken):
    """Returns the exact two-sided p-value of McNemar's test that `fixed` and `broken` are equally likely.

    It is min(1, 2 P(X <= min(fixed, broken))) for X binomial (fixed + broken, 1/2); 1 without flips.
    """
    flips = fixed + broken
    return float(scipy.stats.binomtest(fixed, flips).pvalue) if flips else 1.0


def log_softmax(logits):
    """Returns log-probabilities [N, K] float64 of logits [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(logits, labels):
    """Returns the mean over images in nats, for logits [N, K] and true classes [N]."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def calibration_error(logits, labels, bins=15):
    """Returns the expected calibration error (Guo et al. 2017) of logits [N, K] and true classes [N], a fraction.

    It is the gap between confidence and accuracy in bins of equal width, averaged over images.
    """
    probabilities = np.exp(log_softmax(logits))
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_index, confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def compare(logits, labels):
    """Compares each classifier with its baseline.

    Args:
      logits: label text to [N, K]; contains "raw".
      labels: true classes [N].

    Returns:
      One dict per classifier: label, accuracy, low and high (95% Wilson interval), loss (nats), ece; and, None for
      "raw", fixed and broken (images only this classifier or only its baseline gets right), p_value, against (label).
    """
    correct = {label: values.argmax(axis=1) == labels for label, values in logits.items()}
    rows = []
    for label, values in logits.items():
        low, high = wilson_interval(int(correct[label].sum()), len(labels))
        row = {"label": label, "accuracy": float(correct[label].mean()), "low": low, "high": high}
        row |= {"loss": cross_entropy(values, labels), "ece": calibration_error(values, labels)}
        row |= dict.fromkeys(("fixed", "broken", "p_value", "against"))
        if baseline := baseline_of(label, correct):
            fixed = int((correct[label] & ~correct[baseline]).sum())
            broken = int((~correct[label] & correct[baseline]).sum())
            row |= {"fixed": fixed, "broken": broken}
            row |= {"p_value": mcnemar_p_value(fixed, broken), "against": baseline}
        rows.append(row)
    return rows
