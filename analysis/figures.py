"""The report's figures. Line style as well as colour tells curves apart, and the colours are those of Okabe & Ito's
palette, which colour-blind readers can tell apart too."""

import math

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state

from analysis.statistics import mean_interval

BLUE, VERMILION, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
SIZE = (5, 3.6)  # inches; at 400 pixels wide the letters are still 11 pixels high
STYLE = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "report",  # the same runs give the same bytes
}


def draw(group, output, prefix):
    """Draws every figure of a group into `output`, as <prefix><name>.png and .svg.

    Returns:
      dict: name to (caption, SVG text).
    """
    raw, ema = 100 * group.raw, 100 * group.ema
    band = paired = ""
    if len(group.runs) > 1:
        band = " Bold: mean over seeds; thin: each seed; band: 95% t-interval, cut off where it leaves the figure."
        paired = ", paired by seed"
    figures = {}
    with matplotlib.rc_context(STYLE):
        figures["accuracy"] = f"Test accuracy over epochs.{band}", accuracy_figure(group.epochs, raw, ema)
        figures["gain"] = f"Gain of EMA over epochs{paired}.{band}", gain_figure(group.epochs, ema - raw)
        if decays(group.classifiers):
            bars = "" if len(group.runs) == 1 else " Bars: 95% t-intervals."
            caption = f"Test accuracy after epoch {group.epochs[-1]} against decay.{bars}"
            figures["decay"] = caption, decay_figure(group.classifiers)
        return {name: (caption, save(figure, output, prefix + name)) for name, (caption, figure) in figures.items()}


def save(figure, output, name):
    """Writes <name>.png and <name>.svg; returns the SVG's text."""
    figure.savefig(output / f"{name}.png", dpi=160)
    figure.savefig(output / f"{name}.svg", metadata={"Date": None})
    return (output / f"{name}.svg").read_text()


def accuracy_figure(epochs, raw, ema):
    """Test accuracy over epochs; raw and ema are percentages [S, E]."""
    figure, axes = _epoch_axes("test accuracy (%)")
    _curve(axes, epochs, raw, BLUE, "--", f"raw weights, {raw[:, -1].mean():.2f}% at the end")
    _curve(axes, epochs, ema, VERMILION, "-", f"EMA weights, {ema[:, -1].mean():.2f}% at the end")
    _fit(axes, np.concatenate([raw, ema]))
    axes.legend(loc="best")
    return figure


def gain_figure(epochs, gain):
    """Accuracy of EMA less that of raw over epochs; gain is in percentage points [S, E]."""
    figure, axes = _epoch_axes("EMA - raw (percentage points)")
    axes.axhline(0, color=BLACK, linewidth=1)
    _curve(axes, epochs, gain, GREEN, "-", f"{gain[:, -1].mean():+.2f} points at the end")
    _fit(axes, np.append(gain, 0))
    axes.legend(loc="best")
    return figure


def _epoch_axes(ylabel):
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _curve(axes, epochs, values, colour, style, label):
    mean, half = mean_interval(values)
    axes.plot(epochs, mean, style, color=colour, linewidth=2, marker="o", markersize=3, label=label)
    if half is not None:
        axes.fill_between(epochs, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
        axes.plot(epochs, values.T, style, color=colour, linewidth=0.6, alpha=0.5)


def _fit(axes, values):
    """Fits the y axis to what was measured: the band of two seeds is 18 standard errors high and would flatten it."""
    margin = 0.08 * (values.max() - values.min()) or 1
    axes.set_ylim(values.min() - margin, values.max() + margin)


# ---------------------------------------------------------------------------------------------------------------
# Accuracy against decay

POLICIES = {"raw": (VERMILION, "o", "-"), "averaged": (GREEN, "s", "-."), "recomputed": (PURPLE, "^", ":")}


def decays(classifiers):
    """The curves of the figure: batch-statistics policy to {decay as typed: accuracy [S]}; {} for a single decay."""
    curves = {}
    for label, accuracy in classifiers.items():
        kind, _, rest = label.partition("/")
        decay, _, policy = rest.partition("/")
        if kind == "ema" and policy in POLICIES and _is_decay(decay):
            curves.setdefault(policy, {})[decay] = accuracy
    several = len({decay for curve in curves.values() for decay in curve}) > 1
    return curves if several else {}


def _is_decay(text):
    try:
        return 0 <= float(text) < 1
    except ValueError:
        return False


def horizon(decay):
    """Length of the average in steps, 1 / (1 - decay): equal ratios of it are equally far apart in the figure."""
    return 1 / (1 - float(decay))


def decay_figure(classifiers):
    """Final accuracy against decay, one curve per batch-statistics policy, raw as a level; label to [S] given."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    curves = decays(classifiers)
    typed = sorted({decay for curve in curves.values() for decay in curve}, key=float)
    for label, style in (("raw", "--"), ("raw/recomputed", (0, (1, 3)))):
        if label in classifiers:
            axes.axhline(100 * classifiers[label].mean(), color=BLUE, linestyle=style, label=label)
    for index, (policy, curve) in enumerate(curves.items()):
        colour, marker, style = POLICIES[policy]
        points = sorted(curve, key=float)
        mean, half = mean_interval(100 * np.stack([curve[decay] for decay in points], 1))
        aside = (horizon(typed[-1]) / horizon(typed[0])) ** (0.02 * (index - (len(curves) - 1) / 2))
        x = [aside * horizon(decay) for decay in points]  # side by side, so that no bar hides another
        label = f"EMA, {policy} statistics"
        axes.errorbar(x, mean, half, color=colour, marker=marker, linestyle=style, capsize=3, label=label)
    _decay_ticks(axes, typed)
    axes.set_ylabel("test accuracy (%)")
    figure.legend(loc="outside upper center", ncols=2, fontsize=9)
    return figure


def _decay_ticks(axes, typed):
    axes.set_xscale("log")
    axes.set_xticks([horizon(decay) for decay in typed], typed)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("decay (spaced by the average's length, 1 / (1 - decay))", fontsize=10)
    spread = math.log10(horizon(typed[-1]) / horizon(typed[0]))
    if len(typed) > 3 * spread or len(typed) > 6:
        axes.tick_params(axis="x", rotation=45)
