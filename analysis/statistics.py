"""How good a classifier is, and how sure one can be of it: intervals, calibration, churn, paired comparison."""

import itertools
import math

import numpy as np
import scipy  # scipy.stats, which takes most of a second, is imported when a function below first asks for it

from training.labels import baseline_of

CONFIDENCE = 0.95
INTERVAL_FROM = 3  # seeds; a t-interval of two is 18 standard errors long: the two values say more


def mean_interval(values):
    """Mean over seeds, and half the width of its 95% t-interval.

    Args:
      values: [S, ...], one row per seed. For a paired comparison: the differences, seed by seed.

    Returns:
      (mean, half): each [...]; half is None below INTERVAL_FROM seeds.
    """
    values = np.asarray(values, np.float64)
    seeds = len(values)
    if seeds < INTERVAL_FROM:
        return values.mean(0), None
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1)
    return values.mean(0), t * values.std(0, ddof=1) / math.sqrt(seeds)


def churn(answers):
    """Share of the images on which two seeds disagree, averaged over all pairs (Milani Fard et al. 2016).

    `answers` [S, N] is the class that each seed gives each image; S is at least 2.
    """
    return float(np.mean([(one != other).mean() for one, other in itertools.combinations(answers, 2)]))


def pairs_interval(statistic, values):
    """A mean over all pairs of seeds, such as `churn`, and half the width of its 95% interval.

    Two pairs that share a seed are not independent, so a t-interval over the S (S - 1) / 2 pairs would be too narrow.
    Tukey's jackknife leaves out one seed at a time: u being the statistic of all seeds and u_i that of all but seed i,
    the pseudo-values S u - (S - 1) u_i have the mean u, and the t-interval over these S values is valid for a mean
    over pairs, a U-statistic (Arvesen 1969). With few seeds it errs on the wide side (Efron & Stein 1981).

    Args:
      statistic: function of the values of some of the seeds.
      values: [S, ...], one row per seed; S at least 2.

    Returns:
      (value, half), floats; half is None below INTERVAL_FROM seeds.
    """
    whole, seeds = statistic(values), len(values)
    if seeds < INTERVAL_FROM:
        return whole, None
    parts = np.array([statistic(np.delete(values, seed, 0)) for seed in range(seeds)])
    _, half = mean_interval(seeds * whole - (seeds - 1) * parts)
    return whole, float(half)


def wilson_interval(correct, total):
    """The 95% interval (low, high) of Wilson (1927) for the proportion of two counts, `total` at least 1.

    It stays within [0, 1] and holds near the ends.
    """
    low, high = scipy.stats.binomtest(correct, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(low), float(high)


def mcnemar_p_value(fixed, broken):
    """The exact two-sided p-value of McNemar's test: are `fixed` and `broken` a fair coin's heads and tails?

    They count the images that one classifier alone has right, and the other alone. It is min(1, 2 P(X <= min(fixed,
    broken))) for X binomial (fixed + broken, 1/2); 1 where there is none of either.
    """
    flips = fixed + broken
    return float(scipy.stats.binomtest(fixed, flips).pvalue) if flips else 1.0


def log_softmax(logits):
    """Log-probabilities [N, K] float64 of logits [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def cross_entropy(logits, labels):
    """Mean over images in nats, of logits [N, K] and true classes [N]."""
    return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())


def calibration_error(logits, labels, bins=15):
    """The expected calibration error (Guo et al. 2017) of logits [N, K] and true classes [N], a fraction.

    It is how far confidence is from accuracy, in bins of equal width, averaged over images.
    """
    probabilities = np.exp(log_softmax(logits))
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = np.bincount(which, confidence - correct, minlength=bins)
    return float(np.abs(sums).sum() / len(labels))


def compare(logits, labels):
    """One row per classifier, each against its own fair baseline.

    Args:
      logits: label to [N, K]; holds "raw".
      labels: true classes [N].

    Returns:
      Rows as dicts: label, accuracy, its 95% Wilson interval low and high, mean cross-entropy loss in nats, ece; and,
      None for raw, fixed and broken (images right here and wrong in the baseline, and the reverse), McNemar's p_value,
      and against, the baseline's label.
    """
    right = {label: values.argmax(axis=1) == labels for label, values in logits.items()}
    rows = []
    for label, values in logits.items():
        low, high = wilson_interval(int(right[label].sum()), len(labels))
        row = {"label": label, "accuracy": float(right[label].mean()), "low": low, "high": high}
        row |= {"loss": cross_entropy(values, labels), "ece": calibration_error(values, labels)}
        rows.append(row | _paired(right, label))
    return rows


def _paired(right, label):
    """What `compare` says of a classifier and its baseline; right: label to whether each image is right [N]."""
    against = baseline_of(label, right)
    if against is None:
        return dict.fromkeys(("fixed", "broken", "p_value", "against"))
    fixed = int((right[label] & ~right[against]).sum())
    broken = int((~right[label] & right[against]).sum())
    return {"fixed": fixed, "broken": broken, "p_value": mcnemar_p_value(fixed, broken), "against": against}
