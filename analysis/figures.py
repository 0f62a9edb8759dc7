"""Figures of the report for one group: accuracy and gain over epochs, accuracy against the length of the average."""

from functools import partial
from typing import NamedTuple

import numpy as np

from analysis import plots
from analysis.formatting import display_name, format_number
from analysis.plots import BLACK, GREEN, PURPLE, VERMILION, YELLOW
from analysis.statistics import mean_interval
from training.labels import BATCH_STATS, STATISTICS, Label

BAND_FROM = 5  # seeds; a band of fewer would hide the curves
POLICY_STYLES = dict(zip(BATCH_STATS, ((VERMILION, "o", "-"), (GREEN, "s", "-."), (PURPLE, "^", ":")), strict=True))
STAR = {"color": YELLOW, "markeredgecolor": BLACK, "markersize": 13}
CROWDED = 0.14  # fraction of the axis; tick labels closer than this are slanted


class Figure(NamedTuple):
    name: str
    caption: str
    png: bytes
    svg: bytes


def render(name, caption, draw):
    """Returns [Figure] with the axes that `draw()` returns; [] if it cannot be drawn."""
    files = plots.render_figure(f"figure {name}", draw, "png", "svg")
    return [Figure(name, caption, *files)] if files else []


def draw_group(group, prefix=""):
    """Returns every Figure of a group; their names start with `prefix`."""
    ema, baseline, seeds = display_name(group.ema_label), display_name(group.baseline), seeds_caption(group.seeds)
    caption = f"Test accuracy over epochs: {'; '.join(map(display_name, group.labels))}.{seeds}"
    figures = render(f"{prefix}accuracy", caption, partial(accuracy_axes, group))
    caption = f"Gain of {ema} over {baseline}, its baseline, over epochs.{seeds}"
    figures += render(f"{prefix}gain", caption, partial(gain_axes, group))
    if len(group.runs[0].flags.ema_decay) > 1:
        caption = (
            f"Test accuracy after epoch {group.epochs[-1]} against the length of the average, 1 / (1 - decay) steps, "
            f"in epochs; decays at the top. Star: {ema}, {group.reason}.{seeds}"
        )
        figures += render(f"{prefix}horizon", caption, partial(horizon_axes, group))
    return figures


def seeds_caption(seeds):
    """Returns the end of a caption: how seeds are drawn."""
    bands = f"no intervals below {BAND_FROM} seeds"
    if len(seeds) >= BAND_FROM:
        bands = "bands and bars: 95% t-intervals, clipped at the edge of the figure"
    return f" Bold: mean over seeds; thin or small: each seed; {bands}." if len(seeds) > 1 else ""


def accuracy_axes(group):
    styles = plots.RAW | {group.ema_label: plots.EMA}
    curves = [(display_name(label), styles[label], group.epochs, group.curves[label]) for label in group.labels]
    return epoch_axes("test accuracy (%)", curves)


def gain_axes(group):
    name = f"{display_name(group.ema_label)}\nover {display_name(group.baseline)}"
    return epoch_axes("gain (points)", [(name, (GREEN, "-"), group.epochs, group.gain)], "+")


def epoch_axes(y, curves, sign=""):
    """Draws curves over epochs: the mean over seeds, each seed and, from BAND_FROM seeds on, a band.

    Args:
      y: axis label.
      curves: list of (name, (colour, line style), epochs [E], fractions [S, E]).
      sign: "+" for differences, which get a line at 0.
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
    heights = np.concatenate([line.get_ydata() for line in axes.lines])
    margin = 0.08 * (heights.max() - heights.min()) or 1
    axes.set_ylim(heights.min() - margin, heights.max() + margin)  # a wide band must not flatten the curves
    return plots.add_legend(axes)


def horizon_axes(group):
    """Draws one curve per batch-statistics policy over the length of the average, and the raw weights as levels."""
    width, height = plots.SIZE
    axes = plots.new_axes("length of the average (epochs)", "test accuracy (%)", (width, 1.25 * height))
    axes.margins(x=0.08)
    axes.set_xscale("log")
    flags, row = group.runs[0].flags, group.runs[0].rows[-1]
    epochs_per_step = row["epoch"] / row["step"]
    lengths = {decay: epochs_per_step / (1 - float(decay)) for decay in sorted(flags.ema_decay, key=float)}
    draw_baselines(axes, group)
    ratio = max(lengths.values()) / min(lengths.values())
    for index, policy in enumerate(flags.ema_batch_stats):
        shift = ratio ** (0.02 * (index - (len(flags.ema_batch_stats) - 1) / 2))  # so that error bars do not overlap
        draw_policy(axes, group, policy, {decay: shift * length for decay, length in lengths.items()})
    draw_ticks(axes, lengths)
    return plots.add_legend(axes)


def draw_baselines(axes, group):
    for label, (colour, style) in plots.RAW.items():
        if label in group.final:
            axes.axhline(100 * group.final[label].mean(), color=colour, linestyle=style, label=display_name(label))


def draw_policy(axes, group, policy, positions):
    """Draws test accuracy of one policy over the averages; positions: {decay: x}."""
    labels = [str(Label("ema", decay, policy)) for decay in positions]
    x = list(positions.values())
    values = 100 * np.stack([group.final[label] for label in labels], 1)
    mean, half = mean_interval(values)
    colour, marker, line = POLICY_STYLES[policy]
    style = {"color": colour, "marker": marker}
    bars = half if len(values) >= BAND_FROM else None
    axes.plot(x, values.T, linestyle="none", markersize=3, alpha=0.6, **style)
    axes.errorbar(x, mean, bars, linestyle=line, capsize=3, label=f"EMA, {STATISTICS[policy]} statistics", **style)
    if group.ema_label in labels:
        index = labels.index(group.ema_label)
        axes.plot(x[index], mean[index], "*", zorder=3, label=display_name(group.ema_label), **STAR)


def draw_ticks(axes, lengths):
    """Draws a tick for every item of {decay: length}, ascending: the length below, the decay above."""
    above, x = axes.secondary_xaxis("top"), list(lengths.values())
    axes.set_xticks(x, [f"{length:.3g}" for length in x])
    above.set_xticks(x, list(lengths))
    above.set_xlabel("decay")
    gaps = np.diff(np.log(x))
    for axis in (axes, above):
        axis.set_xticks([], minor=True)
        if gaps.min() <= CROWDED * gaps.sum():
            axis.tick_params(axis="x", rotation=45)
