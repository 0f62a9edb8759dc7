"""How good a classifier is, and how sure one can be of it: intervals, calibration, paired comparison. NumPy only."""

import math

import numpy as np

CONFIDENCE = 0.95
Z95 = 1.959963984540054  # the 97.5% quantile of the standard normal distribution


def central_probability(theta, freedom):
    """P(|T| < sqrt(freedom) tan(theta)) for Student's t with a whole number of degrees of freedom.

    The finite series of Abramowitz & Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4: exact, and all of
    its terms are positive, so nothing cancels.
    """
    odd, cosine = freedom % 2, math.cos(theta)
    total, term = 0.0, cosine**odd
    for power in range(odd, freedom - 1, 2):
        if power > odd:
            term *= (power - 1) / power * cosine**2
        total += term
    if odd:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


def t_quantile(freedom, confidence=CONFIDENCE):
    """The t with P(|T| < t) = confidence, for Student's t with `freedom` = 1, 2, ... degrees of freedom.

    Bisection over the angle of `central_probability`, which grows with it from 0 at 0 to 1 at pi / 2.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halves pi / 2 to below the resolution of a double
        middle = (low + high) / 2
        if central_probability(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def mean_interval(values):
    """Mean over seeds, and half the width of its 95% t-interval.

    Args:
      values: [S, ...], one row per seed. For a paired comparison: the differences, seed by seed.

    Returns:
      (mean, half): each [...]; half is None with a single seed, which says nothing about the spread.
    """
    values = np.asarray(values, np.float64)
    seeds = len(values)
    if seeds == 1:
        return values[0], None
    return values.mean(0), t_quantile(seeds - 1) * values.std(0, ddof=1) / math.sqrt(seeds)


def wilson_interval(correct, total):
    """The 95% interval of Wilson (1927) for a proportion; it stays within [0, 1] and holds near the ends.

    Args:
      correct, total: counts, total at least 1.

    Returns:
      (low, high), fractions.
    """
    share, z2 = correct / total, Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar_p_value(fixed, broken):
    """The exact two-sided p-value of McNemar's test: are `fixed` and `broken` a fair coin's heads and tails?

    Args:
      fixed, broken: how many images one classifier alone has right, and the other alone.

    Returns:
      min(1, 2 P(X <= min(fixed, broken))) for X binomial (fixed + broken, 1/2).
    """
    flips = fixed + broken
    tail = ways = 1
    for k in range(1, min(fixed, broken) + 1):
        ways = ways * (flips - k + 1) // k  # of k heads, from those of k - 1
        tail += ways
    return min(1.0, 2 * tail / 2**flips)  # integers of any size: no underflow


def log_softmax(logits):
    """Log-probabilities [N, K] float64 of logits [N, K]."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def expected_calibration_error(probabilities, labels, bins=15):
    """How far confidence is from accuracy, averaged over images (Guo et al. 2017): 15 bins of equal width.

    Args:
      probabilities: [N, K].
      labels: [N].

    Returns:
      A fraction in [0, 1].
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    sums = np.bincount(which, confidence - correct, minlength=bins)
    return float(np.abs(sums).sum() / len(labels))


def compare(logits, labels):
    """One row per classifier, each against "raw".

    Args:
      logits: label to [N, K]; holds "raw".
      labels: true classes [N].

    Returns:
      Rows as dicts: label, accuracy, its 95% Wilson interval low and high, mean cross-entropy loss in nats, ece; and,
      None for raw, fixed and broken (images right here and wrong in raw, and the reverse) and McNemar's p_value.
    """
    right = {label: values.argmax(axis=1) == labels for label, values in logits.items()}
    rows = []
    for label, values in logits.items():
        log_probabilities = log_softmax(values)
        low, high = wilson_interval(int(right[label].sum()), len(labels))
        fixed = int((right[label] & ~right["raw"]).sum())
        broken = int((~right[label] & right["raw"]).sum())
        against_raw = label != "raw"
        rows.append(
            {
                "label": label,
                "accuracy": float(right[label].mean()),
                "low": low,
                "high": high,
                "loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
                "ece": expected_calibration_error(np.exp(log_probabilities), labels),
                "fixed": fixed if against_raw else None,
                "broken": broken if against_raw else None,
                "p_value": mcnemar_p_value(fixed, broken) if against_raw else None,
            }
        )
    return rows
