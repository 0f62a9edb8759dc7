"""Runs that differ only by seed make one group: what they share, and their accuracies side by side. No TensorFlow."""

import itertools
from typing import NamedTuple

import numpy as np

from analysis.run_files import read_predictions
from training.cli import UserError
from training.flags import RESUMABLE_FLAGS, build_parser
from training.labels import baseline_of, choose, primary

# What a resumption may change, and the seed; but for what may be changed and shapes the numbers that come after.
IGNORED_FLAGS = (RESUMABLE_FLAGS | {"seed"}) - {"epochs", "lr_cooldown", "strategy", "devices"}


class Group(NamedTuple):
    """Runs that differ only by seed, in its order: S runs, and the E epochs that all of them evaluated."""

    title: str
    shape: dict  # what they share: flag to value, as text
    runs: list  # of FinishedRun
    epochs: list  # ascending
    curves: dict  # text of a label to accuracy on the test images [S, E], fractions
    average: str  # text of the label of the average that tables and figures are about, and `reason`: of `choose`
    reason: str
    against: str  # label of its fair baseline

    @property
    def final(self):
        """Label to accuracy at the last epoch [S]."""
        return {label: curve[:, -1] for label, curve in self.curves.items()}

    @property
    def gain(self):
        """Of the average over its baseline [S, E]."""
        return self.curves[self.average] - self.curves[self.against]

    @property
    def compared(self):
        """The labels of the raw weights, the baseline and the average, each once."""
        return list(dict.fromkeys(["raw", self.against, self.average]))

    @property
    def seeds(self):
        return [run.flags.seed for run in self.runs]

    @property
    def notes(self):
        """Sentences about what keeps the runs from being alike."""
        notes = [
            f"{run.path} stopped at epoch {run.rows[-1]['epoch']} of {run.flags.epochs}: later ones are left out."
            for run in self.runs
            if run.rows[-1]["epoch"] < run.flags.epochs
        ]
        for key, what in (("device", "devices"), ("versions", "versions"), ("git_commit", "commits")):
            if any(run.config.get(key) != self.runs[0].config.get(key) for run in self.runs):
                notes.append(f"The runs were made with different {what}: see the table of runs.")
        return notes


def make_groups(runs):
    """Groups FinishedRuns by everything that shapes their numbers but the seed, in order of appearance.

    Raises:
      UserError: two runs are the same one, or those of a group share no epoch.
    """
    shapes = [shape_of(run.flags, run.config.get("precision")) for run in runs]
    distinct = [shape for index, shape in enumerate(shapes) if shape not in shapes[:index]]
    members = [[run for run, its in zip(runs, shapes, strict=True) if its == shape] for shape in distinct]
    return [make_group(title_of(shape, distinct), shape, of) for shape, of in zip(distinct, members, strict=True)]


def shape_of(flags, precision):
    """The flags that shape the numbers, as text; the precision is the one used, not the one asked for."""
    shape = vars(flags) | {"precision": precision}
    as_typed = {name: value if isinstance(value, list) else [value] for name, value in shape.items()}
    return {name: " ".join(map(str, values)) for name, values in as_typed.items() if name not in IGNORED_FLAGS}


def title_of(shape, shapes):
    """What sets a group apart: from the other groups or, where it is alone, from the defaults; and its precision."""
    others = shapes if len(shapes) > 1 else [shape_of(build_parser().parse_args([]), "auto")]
    names = [name for name in shape if name == "precision" or any(other[name] != shape[name] for other in others)]
    return ", ".join(f"{name} {shape[name]}" for name in names)


def make_group(title, shape, runs):
    runs = sorted(runs, key=lambda run: run.flags.seed)
    for one, other in itertools.pairwise(runs):
        if one.flags.seed == other.flags.seed:
            raise UserError(
                f"{one.path} and {other.path} are one run made twice, with the same flags and seed {one.flags.seed}: "
                "leave one out, or it counts as two"
            )
    by_epoch = [{row["epoch"]: row for row in run.rows} for run in runs]
    epochs = sorted(set.intersection(*map(set, by_epoch)))
    if not epochs:
        names = ", ".join(str(run.path) for run in runs)
        raise UserError(f"no epoch was evaluated in all of {names}: report them one by one")
    rows = [[row[epoch] for epoch in epochs] for row in by_epoch]
    labels = rows[0][0]["classifiers"]
    curves = {label: np.array([[row["classifiers"][label] for row in run] for run in rows]) for label in labels}
    average, reason = choose(primary(labels), [run[-1].get("validation", {}) for run in rows])
    return Group(title, shape, runs, epochs, curves, average, reason, baseline_of(average, labels))


def predictions_of(group):
    """What the group's average and its baseline answered to the test images, after the last of its epochs.

    Returns:
      (found, missing): Predictions in the order of the runs, and a phrase for each run without.
    """
    found, missing = [], []
    for run in group.runs:
        try:
            one = read_predictions(run, group.average)
            if one.epoch != group.epochs[-1]:
                raise UserError(f"the predictions of {run.path} are of epoch {one.epoch}, not {group.epochs[-1]}")
            if found and not np.array_equal(one.labels, found[0].labels):
                raise UserError(f"{run.path} was tested on other images than {found[0].run.path}")
            found.append(one)
        except UserError as error:
            missing.append(str(error))
    return found, missing
