"""Runs that differ only by seed make one group: what they share, and their accuracies side by side."""

import itertools
import json
from typing import NamedTuple

import numpy as np

from training.config import MAY_CHANGE
from training.errors import UserError
from training.options import build_parser

# Beside the seed: how often a run was evaluated changes none of its numbers.
NOT_SHAPING = (MAY_CHANGE | {"seed", "seeds", "eval_every"}) - {"lr_cooldown"}


class Group(NamedTuple):
    """Runs that differ only by seed, in its order: S runs, and the E epochs that all of them evaluated."""

    title: str
    shape: dict  # what they share: flag to value, as text
    runs: list
    epochs: list
    raw: np.ndarray  # test accuracy [S, E], fractions
    ema: np.ndarray  # the same, of the first EMA classifier
    classifiers: dict  # label to final test accuracy [S]
    ema_label: str | None  # the classifier that `ema` is of
    notes: list  # sentences that a reader of the numbers has to know


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
    rows = [{row["epoch"]: row for row in run.rows} for run in runs]
    raw, ema = (np.array([[row[epoch][key] for epoch in epochs] for row in rows]) for key in KEYS)
    classifiers, partial = final_accuracies([row[epochs[-1]] for row in rows])
    ema_label = next((label for label in classifiers if label.startswith("ema")), None)
    notes = notes_on(runs, epochs, partial)
    return Group(title_of(shape, shapes), shape, runs, epochs, raw, ema, classifiers, ema_label, notes)


def final_accuracies(rows):
    """The accuracy [S] of every classifier that all S rows have, and the labels of those that only some have."""
    answers = [row.get("classifiers") or {"raw": row["raw_accuracy"]} for row in rows]
    shared = {
        label: np.array([accuracy[label] for accuracy in answers])
        for label in answers[0]
        if all(label in accuracy for accuracy in answers)
    }
    return shared, sorted({label for accuracy in answers for label in accuracy} - set(shared))


KEYS = ("raw_accuracy", "ema_accuracy")


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
        notes.append(f"Not every run evaluated {', '.join(partial)}: left out of the tables.")
    return notes


def title_of(shape, shapes):
    """What sets this group apart: from the other groups or, where it is alone, from the defaults."""
    if len(shapes) == 1:
        defaults = shape_of(build_parser().parse_args([]), {})
        apart = [name for name, value in shape.items() if defaults.get(name) != value]
    else:
        apart = [name for name in shape if len({other.get(name) for other in shapes}) > 1]
    return ", ".join(f"{name} {shape[name]}" for name in apart) or "The default flags"
