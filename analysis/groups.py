"""Runs that differ only by seed make one group: what they share, and their accuracies side by side."""

import itertools
import json
from typing import NamedTuple

import numpy as np

from training import labels
from training.command import UserError
from training.flags import MAY_CHANGE, build_parser
from training.labels import Label

# Beside the seed: how often a run was evaluated changes none of its numbers.
NOT_SHAPING = (MAY_CHANGE | {"seed", "seeds"}) - {"lr_cooldown", "strategy", "devices"}


class Group(NamedTuple):
    """Runs that differ only by seed, in its order: S runs, and the E epochs that all of them evaluated.

    Accuracies are fractions of the test images.
    """

    title: str
    shape: dict  # what they share: flag to value, as text
    runs: list  # of FinishedRun
    epochs: list
    raw: np.ndarray  # accuracy of the plain raw weights [S, E]
    baseline: np.ndarray  # of what the primary EMA is compared with [S, E]
    ema: np.ndarray  # of the primary EMA [S, E]
    classifiers: dict  # label to accuracy at the last epoch [S]
    primary: str | None  # the label that `ema` is of; None where rows of an earlier version do not say
    against: str  # the label that `baseline` is of
    notes: list  # sentences that a reader of the numbers has to know

    @property
    def name(self):
        """Of the primary EMA, for people."""
        return self.primary or "EMA"

    @property
    def last_rows(self):
        """Each run's row of metrics.jsonl at the last of the common epochs."""
        return [next(row for row in reversed(run.rows) if row["epoch"] == self.epochs[-1]) for run in self.runs]


def make_groups(runs):
    """Groups the runs by everything that shapes their numbers but the seed, in order of appearance."""
    together = {}
    for run in runs:
        together.setdefault(tuple(shape_of(run.flags, run.config).items()), []).append(run)
    shapes = [dict(key) for key in together]
    return [make_group(dict(key), members, shapes) for key, members in together.items()]


def shape_of(flags, config):
    """The flags that shape the numbers, as text; the precision is the one used, not the one asked for."""
    shape = {**vars(flags), "precision": config.get("precision", flags.precision)}
    ignored = NOT_SHAPING - {"epochs"} if flags.lr_cooldown else NOT_SHAPING  # where the cooldown lies
    return {name: as_typed(value) for name, value in shape.items() if name not in ignored}


def as_typed(value):
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def make_group(shape, runs, shapes):
    runs = sorted(runs, key=lambda run: run.flags.seed)
    for one, other in itertools.pairwise(runs):
        if one.flags.seed == other.flags.seed:
            raise UserError(
                f"{one.path} and {other.path} are one run made twice, with the same flags and seed {one.flags.seed}: "
                "leave one out, or it counts as two"
            )
    epochs = common_epochs(runs)
    by_epoch = [{row["epoch"]: row for row in run.rows} for run in runs]
    rows = [[row[epoch] for epoch in epochs] for row in by_epoch]
    curves, partial = accuracies(rows)
    primary, against = primary_of(rows, curves)
    return Group(
        title=title_of(shape, shapes),
        shape=shape,
        runs=runs,
        epochs=epochs,
        raw=curves["raw"],
        baseline=curves[against],
        ema=curves[primary] if primary else np.array([[row["ema_accuracy"] for row in run] for run in rows]),
        classifiers={label: curve[:, -1] for label, curve in curves.items()},
        primary=primary,
        against=against,
        notes=notes_on(runs, epochs, partial) + notes_on_baseline(primary, against),
    )


def accuracies(rows):
    """The accuracy of every classifier that all rows have, "raw" the first, and the labels that only some have.

    Args:
      rows: of metrics.jsonl, [S][E].

    Returns:
      (curves, partial): label to [S, E], and labels in alphabetical order.
    """
    answers = [[{"raw": row["raw_accuracy"]} | row.get("classifiers", {}) for row in run] for run in rows]
    everything = [answer for run in answers for answer in run]
    curves = {
        label: np.array([[answer[label] for answer in run] for run in answers])
        for label in everything[0]
        if all(label in answer for answer in everything)
    }
    return curves, sorted({label for answer in everything for label in answer} - set(curves))


def primary_of(rows, curves):
    """The labels of the primary EMA and of its baseline; (None, "raw") where not every row names the same EMA first."""
    named = {labels.primary(row.get("classifiers", {})) for run in rows for row in run}
    primary = named.pop() if len(named) == 1 else None
    return (primary, labels.baseline_of(primary, curves)) if primary else (None, "raw")


def common_epochs(runs):
    """The epochs that every run evaluated, ascending."""
    epochs = set.intersection(*({row["epoch"] for row in run.rows} for run in runs))
    if not epochs:
        names = ", ".join(str(run.path) for run in runs)
        raise UserError(f"no epoch was evaluated in all of {names}: report them one by one")
    return sorted(epochs)


def notes_on(runs, epochs, partial):
    """Sentences about what keeps the runs from being alike; partial: labels that not every run evaluated."""
    notes = [
        f"{run.path} stopped at epoch {run.rows[-1]['epoch']} of {run.flags.epochs}."
        for run in runs
        if run.rows[-1]["epoch"] < run.flags.epochs
    ]
    if any(len({row["epoch"] for row in run.rows}) > len(epochs) for run in runs):
        ends = ", ".join(f"{run.path} at epoch {run.rows[-1]['epoch']}" for run in runs)
        notes.append(
            f"The runs were not evaluated at the same epochs (they end: {ends}): everything here is cut to the "
            f"{len(epochs)} that all share, of which the last is {epochs[-1]}."
        )
    for key, what in (("device", "devices"), ("versions", "versions"), ("git_commit", "commits")):
        if len({json.dumps(run.config.get(key)) for run in runs}) > 1:
            notes.append(f"The runs were made with different {what}: see the table of runs.")
    if partial:
        notes.append(f"Not every evaluation has {', '.join(partial)}: left out of the tables.")
    return notes


def notes_on_baseline(primary, against):
    fair = primary and str(Label.parse(primary).baseline)
    if fair in (None, against):
        return []
    return [f"Not every evaluation has {fair}, the fair baseline of {primary}: its gain is taken over {against}."]


def title_of(shape, shapes):
    """What sets this group apart: from the other groups or, where it is alone, from the defaults."""
    if len(shapes) == 1:
        defaults = shape_of(build_parser().parse_args([]), {})
        apart = [name for name, value in shape.items() if defaults.get(name) != value]
    else:
        apart = [name for name in shape if len({other.get(name) for other in shapes}) > 1]
    return ", ".join(f"{name} {shape[name]}" for name in apart) or "The default flags"
