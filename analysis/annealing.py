"""Averaging against annealing: EMA at a constant learning rate beside a rate that cools down, seed by seed."""

import itertools
from functools import partial
from typing import NamedTuple

from analysis import figures
from analysis.formatting import Table, display_name, listed, over_seeds
from analysis.groups import Group, make_group
from analysis.plots import BLACK, BLUE, EMA, GREEN


class Pair(NamedTuple):
    """Two groups that differ by --lr_cooldown alone: their common seeds, up to the epoch at which the cooldown ends."""

    constant: Group
    cooled: Group
    epoch: int  # at which the cooldown ends
    cooldown: int  # epochs
    left_out: list  # of FinishedRun: of seeds that both have, but not evaluated at that epoch


def find_pairs(groups):
    """Every Pair among the groups."""
    return [pair for two in itertools.permutations(groups, 2) if differ_by_cooldown(*two) and (pair := shared(*two))]


def differ_by_cooldown(constant, cooled):
    one, other = (group.shape | {"lr_cooldown": None, "epochs": None} for group in (constant, cooled))
    return one == other and constant.runs[0].flags.lr_cooldown == 0 < cooled.runs[0].flags.lr_cooldown


def shared(constant, cooled):
    """The Pair of two groups; None where no seed was evaluated in both of them when the cooldown ended."""
    flags, common = cooled.runs[0].flags, set(constant.seeds) & set(cooled.seeds)
    left_out = [
        run
        for run in constant.runs + cooled.runs
        if run.flags.seed in common and flags.epochs not in (row["epoch"] for row in run.rows)
    ]
    seeds = common - {run.flags.seed for run in left_out}
    if not seeds:
        return None
    groups = (up_to(flags.epochs, group, seeds) for group in (constant, cooled))
    return Pair(*groups, flags.epochs, flags.lr_cooldown, left_out)


def up_to(epoch, group, seeds):
    """The group of those runs that have these seeds, as if they had ended at the epoch."""
    runs = [run for run in group.runs if run.flags.seed in seeds]
    cut = [run._replace(rows=[row for row in run.rows if row["epoch"] <= epoch]) for run in runs]
    return make_group(group.title, group.shape, cut)


def compare(pair):
    """The table of a pair: baseline and average at the constant rate and after the cooldown, paired by seed."""
    accuracies = {
        f"{rate}, {display_name(label)}": 100 * group.final[label]
        for rate, group in (("constant rate", pair.constant), ("annealed", pair.cooled))
        for label in (group.against, group.average)
    }
    references = list(accuracies.values())[:2]
    rows = []
    for name, accuracy in accuracies.items():
        over = ("-" if accuracy is other else over_seeds(accuracy - other, "+") for other in references)
        rows.append([name, over_seeds(accuracy), *over])
    missing = "".join(f"; without the seed of {run.path}, which was not evaluated then" for run in pair.left_out)
    caption = (
        f"Averaging and annealing after epoch {pair.epoch}, the last {pair.cooldown} of them cooled down, "
        f"{listed(pair.cooled.seeds)}{missing}"
    )
    return Table(caption, ["", "accuracy, %", "over row 1", "over row 2"], rows)


def draw(pair, prefix=""):
    """The figure of a pair, as a list of one figures.Drawn."""
    caption = (
        f"Test accuracy over epochs at a constant learning rate, and where it falls to 0 over the last {pair.cooldown} "
        f"of {pair.epoch} epochs.{figures.how_seeds_are_drawn(pair.cooled.seeds)}"
    )
    return figures.drawn(f"{prefix}annealing", caption, partial(annealing_axes, pair))


def annealing_axes(pair):
    """The second half of training: four curves, those of the annealed runs from where their rate begins to fall."""
    curves = []
    for rate, group, begin, looks in (
        ("constant rate", pair.constant, pair.epoch / 2, ((BLUE, "--"), EMA)),
        ("annealed", pair.cooled, pair.epoch - pair.cooldown, ((BLACK, ":"), (GREEN, "-."))),
    ):
        epochs = [epoch for epoch in group.epochs if epoch >= begin]
        for label, look in zip((group.against, group.average), looks, strict=True):
            curves.append((f"{rate}, {display_name(label)}", look, epochs, group.curves[label][:, -len(epochs) :]))
    return figures.epoch_axes("test accuracy (%)", curves)
