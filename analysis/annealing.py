"""Averaging against annealing: EMA at a constant learning rate and with a cooldown, paired by seed."""

import itertools
from functools import partial
from typing import NamedTuple

from analysis import figures
from analysis.formatting import Table, describe_seeds, display_name, over_seeds
from analysis.groups import Group, make_group
from analysis.plots import BLACK, BLUE, EMA, GREEN


class Pair(NamedTuple):
    """Two groups that differ only by --lr_cooldown: their common seeds, up to the end of the cooldown."""

    constant: Group
    cooled: Group
    epoch: int  # the end of the cooldown
    cooldown: int  # epochs
    left_out: list  # of FinishedRun: seeds in both groups without an evaluation at `epoch`


def find_pairs(groups):
    """Returns every Pair among the groups that has a common seed."""
    return [pair for two in itertools.permutations(groups, 2) if (pair := make_pair(*two))]


def make_pair(constant, cooled):
    """Returns the Pair of two groups; None if other flags differ or no seed was evaluated in both."""
    epoch, cooldown = (int(cooled.config[name]) for name in ("epochs", "lr_cooldown"))
    ends = {"lr_cooldown": None, "epochs": None}
    if constant.config["lr_cooldown"] != "0" or not cooldown or constant.config | ends != cooled.config | ends:
        return None
    seeds = set(constant.seeds) & set(cooled.seeds)
    runs = [run for run in constant.runs + cooled.runs if run.flags.seed in seeds]
    left_out = [run for run in runs if epoch not in (row["epoch"] for row in run.rows)]
    seeds -= {run.flags.seed for run in left_out}
    if not seeds:
        return None
    return Pair(cut_at(epoch, constant, seeds), cut_at(epoch, cooled, seeds), epoch, cooldown, left_out)


def cut_at(epoch, group, seeds):
    """Returns the group with only these seeds, as if training had ended at `epoch`."""
    runs = []
    for run in group.runs:
        if run.flags.seed in seeds:
            runs.append(run._replace(rows=[row for row in run.rows if row["epoch"] <= epoch]))
    return make_group(group.title, group.config, runs)


def compare(pair):
    """Returns the table of a pair: baseline and average at the constant rate and after the cooldown."""
    accuracies = {}
    for rate, group in (("constant rate", pair.constant), ("annealed", pair.cooled)):
        for label in (group.baseline, group.ema_label):
            accuracies[f"{rate}, {display_name(label)}"] = 100 * group.final[label]
    references = list(accuracies.values())[:2]
    rows = []
    for name, accuracy in accuracies.items():
        differences = ("-" if accuracy is other else over_seeds(accuracy - other, "+") for other in references)
        rows.append([name, over_seeds(accuracy), *differences])
    missing = "".join(f"; without the seed of {run.path}, not evaluated at this epoch" for run in pair.left_out)
    caption = (
        f"Averaging and annealing after epoch {pair.epoch}, cooldown over the last {pair.cooldown} epochs, "
        f"{describe_seeds(pair.cooled.seeds)}{missing}"
    )
    return Table(caption, ["", "accuracy, %", "over row 1", "over row 2"], rows)


def draw(pair, prefix=""):
    """Returns the figure of a pair as a list of one figures.Figure."""
    caption = (
        f"Test accuracy over epochs at a constant learning rate, and with a cooldown to 0 over the last "
        f"{pair.cooldown} of {pair.epoch} epochs.{figures.seeds_caption(pair.cooled.seeds)}"
    )
    return figures.render(f"{prefix}annealing", caption, partial(annealing_axes, pair))


def annealing_axes(pair):
    """Draws four curves over the second half of training; the annealed ones from the start of the cooldown."""
    curves = []
    for rate, group, start, styles in (
        ("constant rate", pair.constant, pair.epoch / 2, ((BLUE, "--"), EMA)),
        ("annealed", pair.cooled, pair.epoch - pair.cooldown, ((BLACK, ":"), (GREEN, "-."))),
    ):
        epochs = [epoch for epoch in group.epochs if epoch >= start]
        for label, style in zip((group.baseline, group.ema_label), styles, strict=True):
            curves.append((f"{rate}, {display_name(label)}", style, epochs, group.curves[label][:, -len(epochs) :]))
    return figures.epoch_axes("test accuracy (%)", curves)
