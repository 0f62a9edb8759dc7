"""The report's figures: those over epochs are drawn here, the one over horizons in horizons.py."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state

from analysis.horizons import caption, decays, horizon_figure
from analysis.statistics import mean_interval
from analysis.styles import BAND_FROM, BLACK, GREEN, RAW, SIZE, STYLE, VERMILION
from analysis.tables import shown


def draw(group, output, prefix):
    """Draws every figure of a group into `output`, as <prefix><name>.png and .svg.

    Returns:
      dict: name to (caption, SVG text).
    """
    accuracies = {"raw": 100 * group.raw, group.against: 100 * group.baseline, group.name: 100 * group.ema}
    gain = 100 * (group.ema - group.baseline)
    paired = "" if len(group.runs) == 1 else ", paired by seed"
    words = how_seeds_are_drawn(len(group.runs))
    gained = f"Gain of {group.name} over {group.against}, its baseline, over epochs{paired}.{words}"
    figures = {}
    with matplotlib.rc_context(STYLE):
        figures["accuracy"] = (
            f"Test accuracy of {', '.join(accuracies)} over epochs.{words}",
            accuracy_figure(group.epochs, accuracies),
        )
        figures["gain"] = gained, gain_figure(group.epochs, gain, group.name, group.against)
        if decays(group.classifiers):
            figures["horizon"] = caption(group), horizon_figure(group)
        return {name: (caption, save(figure, output, prefix + name)) for name, (caption, figure) in figures.items()}


def how_seeds_are_drawn(seeds):
    """The end of a caption."""
    if seeds == 1:
        return ""
    if seeds < BAND_FROM:
        return f" Bold: mean over seeds; thin: each seed (no intervals of fewer than {BAND_FROM} seeds)."
    return " Bold: mean over seeds; thin: each seed; band: 95% t-interval, cut off where it leaves the figure."


def save(figure, output, name):
    """Writes <name>.png and <name>.svg; returns the SVG's text."""
    figure.savefig(output / f"{name}.png", dpi=160)
    figure.savefig(output / f"{name}.svg", metadata={"Date": None})
    return (output / f"{name}.svg").read_text()


def accuracy_figure(epochs, accuracies):
    """Test accuracy over epochs; accuracies: label to percentages [S, E]."""
    figure, axes = epoch_axes("test accuracy (%)")
    for label, values in accuracies.items():
        colour, style = RAW.get(label, (VERMILION, "-"))
        curve(axes, epochs, values, colour, style, f"{label}, {values[:, -1].mean():.2f}% at the end")
    fit(axes, np.concatenate(list(accuracies.values())))
    axes.legend(loc="best", fontsize=10)
    return figure


def gain_figure(epochs, gain, name, against):
    """Accuracy of `name` less that of `against` over epochs; gain is in percentage points [S, E]."""
    figure, axes = epoch_axes(f"gain of {name}\nover {against} (points)")
    axes.axhline(0, color=BLACK, linewidth=1)
    curve(axes, epochs, gain, GREEN, "-", f"{shown(gain[:, -1].mean(), '+')} points at the end")
    fit(axes, np.append(gain, 0))
    figure.legend(loc="outside upper center", fontsize=10)  # inside, the line at 0 may strike it through
    return figure


def epoch_axes(ylabel):
    """A figure, and its axes over epochs."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def curve(axes, epochs, values, colour, style, label):
    """The mean of values [S, E] over seeds, each seed, and the band from `BAND_FROM` seeds on."""
    mean, half = mean_interval(values)
    axes.plot(epochs, mean, linestyle=style, color=colour, linewidth=2, marker="o", markersize=3, label=label)
    if len(values) > 1:
        axes.plot(epochs, values.T, linestyle=style, color=colour, linewidth=0.6, alpha=0.5)
    if len(values) >= BAND_FROM:
        axes.fill_between(epochs, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)


def fit(axes, values):
    """Fits the y axis to what was measured: no band may flatten it."""
    margin = 0.08 * (values.max() - values.min()) or 1
    axes.set_ylim(values.min() - margin, values.max() + margin)
