"""The report's figures of a group: accuracy and gain over epochs, accuracy against the length of the average."""

from functools import partial
from typing import NamedTuple

import numpy as np

from analysis import plots
from analysis.formatting import display_name, format_number
from analysis.plots import BLACK, GREEN, PURPLE, VERMILION, YELLOW
from analysis.statistics import mean_interval
from training.labels import STATISTICS, Label

BAND_FROM = 5  # seeds; a band of fewer hides what was measured
POLICIES = {"raw": (VERMILION, "o", "-"), "averaged": (GREEN, "s", "-."), "recomputed": (PURPLE, "^", ":")}
CROWDED = 0.14  # of the axis: numbers that stand closer than this are slanted


class Drawn(NamedTuple):
    """A figure, as the bytes of its files."""

    name: str
    caption: str
    png: bytes
    svg: bytes


def drawn(name, caption, draw):
    """The figure whose axes `draw()` returns, as a list of one Drawn; empty where it cannot be drawn."""
    files = plots.render_figure(f"figure {name}", draw, "png", "svg")
    return [Drawn(name, caption, *files)] if files else []


def draw_group(group, prefix=""):
    """Every figure of a group, as Drawn; their names begin with the prefix."""
    average, against, seeds = display_name(group.average), display_name(group.against), how_seeds_are_drawn(group.seeds)
    caption = f"Test accuracy over epochs: {'; '.join(map(display_name, group.compared))}.{seeds}"
    made = drawn(f"{prefix}accuracy", caption, partial(accuracy_axes, group))
    caption = f"Gain of {average} over {against}, its baseline, over epochs.{seeds}"
    made += drawn(f"{prefix}gain", caption, partial(gain_axes, group))
    if len(group.runs[0].flags.ema_decay) > 1:
        caption = (
            f"Test accuracy after epoch {group.epochs[-1]} against the length of the average, 1 / (1 - decay) steps, "
            f"in epochs; the decays stand above. Star: {average}, {group.reason}.{seeds}"
        )
        made += drawn(f"{prefix}horizon", caption, partial(horizon_axes, group))
    return made


def how_seeds_are_drawn(seeds):
    """The end of a caption."""
    if len(seeds) == 1:
        return ""
    bands = f"no intervals of fewer than {BAND_FROM} seeds"
    if len(seeds) >= BAND_FROM:
        bands = "bands and bars: 95% t-intervals, cut off where they leave the figure"
    return f" Bold: mean over seeds; thin or small: each seed; {bands}."


def accuracy_axes(group):
    looks = plots.RAW | {group.average: plots.EMA}
    curves = [(display_name(label), looks[label], group.epochs, group.curves[label]) for label in group.compared]
    return epoch_axes("test accuracy (%)", curves)


def gain_axes(group):
    name = f"{display_name(group.average)}\nover {display_name(group.against)}"
    return epoch_axes("gain (points)", [(name, (GREEN, "-"), group.epochs, group.gain)], "+")


def epoch_axes(y, curves, sign=""):
    """Curves over epochs: means over seeds, each seed and, from BAND_FROM seeds on, a band.

    Args:
      curves: of (name, (colour, line style), epochs [E], fractions [S, E]).
      sign: "+" for differences, which have a line at 0.
    """
    axes = plots.new_axes("epoch", y)
    if sign:
        axes.axhline(0, color=BLACK, linewidth=1)
    for name, (colour, style), epochs, fractions in curves:
        values = 100 * fractions
        mean, half = mean_interval(values)
        plots.draw_curve(axes, epochs, mean, colour, style, f"{name}, {format_number(mean[-1], sign)} at the end")
        axes.plot(epochs, values.T, color=colour, linestyle=style, linewidth=0.6, alpha=0.5)
        if len(values) >= BAND_FROM:
            axes.fill_between(epochs, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
    lines = np.concatenate([line.get_ydata() for line in axes.lines])
    margin = 0.08 * (lines.max() - lines.min()) or 1
    axes.set_ylim(lines.min() - margin, lines.max() + margin)  # no band may flatten them
    return plots.add_legend(axes)


def horizon(decay, epoch_steps):
    """Length of the average in epochs: 1 / (1 - decay) steps."""
    return 1 / (1 - float(decay)) / epoch_steps


def horizon_axes(group):
    """A curve for each policy of batch statistics; the raw weights are levels."""
    width, height = plots.SIZE
    axes = plots.new_axes("length of the average (epochs)", "test accuracy (%)", (width, 1.25 * height))
    axes.margins(x=0.08)
    axes.set_xscale("log")  # equal ratios of length are equally far apart
    for label, (colour, style) in plots.RAW.items():
        if label in group.final:
            axes.axhline(100 * group.final[label].mean(), color=colour, linestyle=style, label=display_name(label))
    flags, row = group.runs[0].flags, group.runs[0].rows[-1]
    lengths = {decay: horizon(decay, row["step"] / row["epoch"]) for decay in sorted(flags.ema_decay, key=float)}
    ratio, policies = max(lengths.values()) / min(lengths.values()), flags.ema_batch_stats
    for index, policy in enumerate(policies):
        beside = ratio ** (0.02 * (index - (len(policies) - 1) / 2))  # so that no bar hides another
        labels = [str(Label("ema", decay, policy)) for decay in lengths]
        places = [beside * length for length in lengths.values()]
        values = 100 * np.stack([group.final[label] for label in labels], 1)
        mean, half = mean_interval(values)
        colour, marker, line = POLICIES[policy]
        look = {"color": colour, "marker": marker}
        axes.plot(places, values.T, linestyle="none", markersize=3, alpha=0.6, **look)
        bars = half if len(values) >= BAND_FROM else None
        axes.errorbar(
            places, mean, bars, linestyle=line, capsize=3, label=f"EMA, {STATISTICS[policy]} statistics", **look
        )
        if group.average in labels:
            here, star = labels.index(group.average), {"color": YELLOW, "markeredgecolor": BLACK, "markersize": 13}
            axes.plot(places[here], mean[here], "*", zorder=3, label=display_name(group.average), **star)
    draw_ticks(axes, lengths)
    return plots.add_legend(axes)


def draw_ticks(axes, lengths):
    """A tick for every decay of {decay as typed: length}, ascending: its length below, the decay above."""
    above, places = axes.secondary_xaxis("top"), list(lengths.values())
    axes.set_xticks(places, [f"{length:.3g}" for length in places])
    above.set_xticks(places, list(lengths))
    above.set_xlabel("decay")
    gaps = np.diff(np.log(places))
    for axis in (axes, above):
        axis.set_xticks([], minor=True)
        if gaps.min() <= CROWDED * gaps.sum():
            axis.tick_params(axis="x", rotation=45)
