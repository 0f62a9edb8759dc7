"""Final accuracy against how far an average reaches back, in epochs: one curve per batch-statistics policy."""

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state

from analysis.statistics import mean_interval
from analysis.styles import BAND_FROM, BLACK, GREEN, PURPLE, RAW, SIZE, VERMILION, YELLOW
from training.labels import Label

POLICIES = {"raw": (VERMILION, "o", "-"), "averaged": (GREEN, "s", "-."), "recomputed": (PURPLE, "^", ":")}
CROWDED = 0.14  # of the axis: numbers that stand closer than this are slanted


def decays(classifiers):
    """The curves of the figure: batch-statistics policy to {decay as typed: accuracy [S]}; {} for a single decay."""
    curves = {}
    for text, accuracy in classifiers.items():
        label = Label.parse(text)
        if label.weights == "ema" and _is_decay(label.decay):
            curves.setdefault(label.statistics, {})[label.decay] = accuracy
    several = len({decay for curve in curves.values() for decay in curve}) > 1
    return curves if several else {}


def _is_decay(text):
    try:
        return 0 <= float(text) < 1
    except ValueError:
        return False


def horizon(decay, epoch_steps):
    """Length of the average in epochs: 1 / (1 - decay) steps."""
    return 1 / (1 - float(decay)) / epoch_steps


def chosen_on_validation(group):
    """The decay to use, chosen without a look at the test images.

    Returns:
      The label with the best mean validation accuracy over seeds at the last epoch, among the averages with the
      primary's batch statistics; None where not every run has validation accuracies.
    """
    if group.primary is None:
        return None
    statistics = Label.parse(group.primary).statistics
    answers = [row.get("validation", {}) for row in group.last_rows]
    means = {
        label: np.mean([answer[label] for answer in answers])
        for decay in decays(group.classifiers).get(statistics, {})
        if all((label := str(Label("ema", decay, statistics))) in answer for answer in answers)
    }
    return max(means, key=means.get, default=None)


def caption(group):
    """What the figure shows, in words."""
    text = (
        f"Test accuracy after epoch {group.epochs[-1]} against the length of the average, 1 / (1 - decay) steps, in "
        "epochs; the decays stand above."
    )
    if len(group.runs) >= BAND_FROM:
        text += " Bars: 95% t-intervals."
    elif len(group.runs) > 1:
        text += f" Lines: mean over seeds; small: each seed (no intervals of fewer than {BAND_FROM} seeds)."
    if chosen := chosen_on_validation(group):
        text += f" Star: {chosen}, the best of these on the validation images."
    return text


def horizon_figure(group):
    """Draws the figure of a group with several decays; the raw weights are levels."""
    figure = Figure(figsize=(SIZE[0], 1.2 * SIZE[1]), layout="constrained")  # the legend stands above
    axes = figure.subplots()
    axes.set_xscale("log")  # equal ratios of length are equally far apart
    axes.set_xlabel("length of the average (epochs)")
    axes.set_ylabel("test accuracy (%)")
    for label, (colour, style) in RAW.items():
        if label in group.classifiers:
            axes.axhline(100 * group.classifiers[label].mean(), color=colour, linestyle=style, label=label)
    epoch_steps = group.last_rows[0]["step"] / group.last_rows[0]["epoch"]
    curves = decays(group.classifiers)
    typed = sorted({decay for curve in curves.values() for decay in curve}, key=float)
    x = {decay: horizon(decay, epoch_steps) for decay in typed}
    chosen = chosen_on_validation(group)
    for index, (policy, curve) in enumerate(curves.items()):
        # Side by side, so that no bar hides another.
        aside = (x[typed[-1]] / x[typed[0]]) ** (0.02 * (index - (len(curves) - 1) / 2))
        means = _curve(axes, policy, {aside * x[decay]: curve[decay] for decay in sorted(curve, key=float)})
        if chosen and Label.parse(chosen).statistics == policy:
            place = aside * x[Label.parse(chosen).decay]
            _star(axes, place, means[place])
    _ticks(axes, x)
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _curve(axes, policy, curve):
    """Draws the accuracies {x: [S]} of one policy; returns their means in percent, by x."""
    colour, marker, style = POLICIES[policy]
    values = 100 * np.stack(list(curve.values()), 1)
    mean, half = mean_interval(values)
    if len(values) < BAND_FROM:
        half = None
        if len(values) > 1:
            axes.plot(list(curve), values.T, color=colour, marker=marker, linestyle="none", markersize=3, alpha=0.6)
    axes.errorbar(
        list(curve),
        mean,
        half,
        color=colour,
        marker=marker,
        linestyle=style,
        capsize=3,
        label=f"EMA, {policy} statistics",
    )
    return dict(zip(curve, mean, strict=True))


def _star(axes, x, y):
    label = "chosen on validation"
    axes.plot(
        [x], [y], "*", color=YELLOW, markeredgecolor=BLACK, markersize=13, linestyle="none", zorder=3, label=label
    )


def _ticks(axes, x):
    """A tick for every decay of {decay as typed: horizon}, ascending: its horizon below, the decay above."""
    above = axes.secondary_xaxis("top")
    axes.set_xticks(list(x.values()), [f"{epochs:.3g}" for epochs in x.values()])
    above.set_xticks(list(x.values()), list(x))
    above.set_xlabel("decay")
    gaps = np.diff(np.log(list(x.values())))
    for axis in (axes, above):
        axis.set_xticks([], minor=True)
        if gaps.min() <= CROWDED * gaps.sum():
            axis.tick_params(axis="x", rotation=45)
