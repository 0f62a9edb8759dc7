"""Small differences between contestants that take turns: medians over rounds, and how sure one can be of them.

A machine whose speed drifts, or that other programs disturb for a moment, moves all turns of a round or a few single
ones. So every figure is made within a round, and the median over rounds does not mind the few.
"""

from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A median over rounds and its 95% interval; the interval is None where there are fewer than three rounds."""

    value: float
    low: float | None
    high: float | None


def median_over_rounds(values):
    """The Estimate of the median of `values`, one for each round: the percentile bootstrap (Efron 1979) over rounds."""
    values = np.asarray(values, np.float64)
    if len(values) < 3:
        return Estimate(float(np.median(values)), None, None)
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Estimate(float(np.median(values)), float(low), float(high))


def cost(seconds, reference):
    """What `seconds` is longer than `reference`, as a fraction of the latter, round by round; an Estimate."""
    seconds, reference = (np.asarray(values, np.float64) for values in (seconds, reference))
    return median_over_rounds(seconds / reference - 1)


def cost_per_decay(seconds):
    """What each decay more adds to a step, as a fraction of a step with one decay.

    In each round a straight line is fitted (least squares) to the seconds over the number of decays; the figure of a
    round is the line's slope over its value at one decay.

    Args:
      seconds: number of decays to seconds of each round, of the same steps; two numbers or more.

    Returns:
      Estimate.
    """
    decays = np.array(sorted(seconds), np.float64)
    rounds = np.array([seconds[count] for count in sorted(seconds)], np.float64)
    slopes, at_one = np.polynomial.polynomial.polyfit(decays - 1, rounds, 1)[::-1]
    return median_over_rounds(slopes / at_one)


def alternating(names, rounds):
    """The order of turns: forwards in one round and backwards in the next, so that a steady drift cancels."""
    return [list(names) if number % 2 == 0 else list(names)[::-1] for number in range(rounds)]
