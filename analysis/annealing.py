"""Averaging against annealing: EMA at a constant learning rate beside a rate that cools down, seed by seed."""

import itertools
from typing import NamedTuple

import matplotlib
import numpy as np

from analysis import figures
from analysis.groups import Group
from analysis.statistics import mean_interval
from analysis.styles import BLACK, BLUE, GREEN, STYLE, VERMILION
from analysis.tables import Table, estimate


class Pair(NamedTuple):
    """Two groups that differ by --lr_cooldown alone, and what they share."""

    constant: Group
    cooled: Group
    seeds: list  # ascending
    epoch: int  # at which the cooldown ends, and which the others were evaluated at too

    @property
    def cooldown(self):
        """Epochs."""
        return int(self.cooled.shape["lr_cooldown"])

    def accuracies(self, group, epoch):
        """Of the baseline and of the primary EMA of one of the groups, [S] each, of the seeds that both have."""
        rows = [place for place, run in enumerate(group.runs) if run.flags.seed in self.seeds]
        column = group.epochs.index(epoch)
        return group.baseline[rows, column], group.ema[rows, column]


def find_pairs(groups):
    """Every Pair of groups that share a seed and an epoch; groups: of analysis.groups.Group."""
    return [pair for two in itertools.permutations(groups, 2) if differ_by_cooldown(*two) and (pair := shared(*two))]


def differ_by_cooldown(constant, cooled):
    shapes = [
        {flag: value for flag, value in group.shape.items() if flag not in ("lr_cooldown", "epochs")}
        for group in (constant, cooled)
    ]
    return shapes[0] == shapes[1] and constant.shape["lr_cooldown"] == "0" != cooled.shape["lr_cooldown"]


def shared(constant, cooled):
    """The Pair of two groups; None where they share no seed, or not the epoch at which the cooldown ends."""
    of_cooled = {run.flags.seed for run in cooled.runs}
    seeds = [run.flags.seed for run in constant.runs if run.flags.seed in of_cooled]
    epoch = int(cooled.shape["epochs"])
    ended = epoch in cooled.epochs and epoch in constant.epochs
    return Pair(constant, cooled, seeds, epoch) if seeds and ended else None


def compare(pair):
    """The table of a pair: baseline and primary EMA at the constant rate and after the cooldown, at the last epoch.

    Every difference is paired by seed.
    """
    accuracies = {}
    for name, group in (("constant rate", pair.constant), ("annealed", pair.cooled)):
        baseline, averaged = pair.accuracies(group, pair.epoch)
        accuracies |= {f"{name}, {group.against}": baseline, f"{name}, {group.name}": averaged}
    plain, averaged, *_ = accuracies.values()
    rows = []
    for name, accuracy in accuracies.items():
        over = [
            ["-", "-"] if accuracy is reference else estimate(*mean_interval(100 * (accuracy - reference)), "+")
            for reference in (plain, averaged)
        ]
        rows.append([name, *estimate(*mean_interval(100 * accuracy)), *over[0], *over[1]])
    first, second = list(accuracies)[:2]
    header = ["", "accuracy, %", "95% interval", f"over {first}", "95% interval", f"over {second}", "95% interval"]
    listed = ", ".join(map(str, pair.seeds))
    caption = (
        f"Averaging and annealing after epoch {pair.epoch}, the last {pair.cooldown} of them cooled down; "
        f"paired over {len(pair.seeds)} seed{'s' if len(pair.seeds) > 1 else ''} ({listed})"
    )
    return Table(caption, header, rows)


def draw(pair, output, name):
    """Draws the figure of a pair into `output`, as <name>.png and .svg; returns (caption, SVG text)."""
    caption = (
        f"Test accuracy over epochs at a constant learning rate, and where it falls to 0 over the last {pair.cooldown} "
        f"of {pair.epoch} epochs.{figures.how_seeds_are_drawn(len(pair.seeds))}"
    )
    with matplotlib.rc_context(STYLE):
        return caption, figures.save(annealing_figure(pair), output, name)


def annealing_figure(pair):
    """The second half of training: four curves, those of the annealed runs from where their rate begins to fall."""
    figure, axes = figures.epoch_axes("test accuracy (%)")
    shown = []
    for name, group, begin, styles in (
        ("constant rate", pair.constant, pair.epoch / 2, ((BLUE, "--"), (VERMILION, "-"))),
        ("annealed", pair.cooled, pair.epoch - pair.cooldown, ((BLACK, ":"), (GREEN, "-."))),
    ):
        epochs = [epoch for epoch in group.epochs if begin <= epoch <= pair.epoch]
        curves = 100 * np.stack([pair.accuracies(group, epoch) for epoch in epochs], axis=-1)  # [2, S, E]
        for label, values, style in zip((group.against, group.name), curves, styles, strict=True):
            figures.curve(axes, epochs, values, *style, f"{name}, {label}, {values[:, -1].mean():.2f}% at the end")
        shown.append(curves.ravel())
    figures.fit(axes, np.concatenate(shown))
    figure.legend(loc="outside upper center", fontsize=9)
    return figure
