"""Groups of runs that differ only by seed, and their accuracies side by side. Works without TensorFlow."""

import itertools
from typing import NamedTuple

import numpy as np

from analysis.run_files import read_predictions
from training.cli import UserError
from training.flags import build_parser
from training.labels import baseline_of, choose, primary

# Flags that do not separate runs; a new flag separates them until it is listed here.
IGNORED_FLAGS = ("run_dir", "resume", "seed", "data_dir", "device", "xla", "eval_every", "checkpoint_every")


class Group(NamedTuple):
    """Runs that differ only by seed: S runs, sorted by seed, and the E epochs that all of them evaluated."""

    title: str
    config: dict  # flag to value as text, the same in all runs
    runs: list  # of FinishedRun
    epochs: list  # ascending
    curves: dict  # label text to test accuracies [S, E], fractions
    ema_label: str  # the average in tables and figures
    reason: str  # why this average, a phrase
    baseline: str  # label text of the average's baseline

    @property
    def final(self):
        """Returns {label: accuracies [S]} at the last epoch."""
        return {label: curve[:, -1] for label, curve in self.curves.items()}

    @property
    def gain(self):
        """Returns the gain of the average over its baseline [S, E]."""
        return self.curves[self.ema_label] - self.curves[self.baseline]

    @property
    def labels(self):
        """Returns the labels of the raw weights, the baseline and the average, each once."""
        return list(dict.fromkeys(["raw", self.baseline, self.ema_label]))

    @property
    def seeds(self):
        return [run.flags.seed for run in self.runs]

    @property
    def notes(self):
        """Returns sentences about differences between the runs."""
        notes = []
        for run in self.runs:
            epoch, epochs = run.rows[-1]["epoch"], run.flags.epochs
            if epoch < epochs:
                notes.append(f"{run.path} stopped at epoch {epoch} of {epochs}: later epochs are left out.")
        for key, name in (("device", "devices"), ("versions", "versions"), ("git_commit", "commits")):
            if any(run.config.get(key) != self.runs[0].config.get(key) for run in self.runs):
                notes.append(f"The runs were made with different {name}: see the table of runs.")
        return notes


def make_groups(runs):
    """Groups FinishedRuns by the flags that separate runs, in order of appearance.

    Raises:
      UserError: a run is given twice, or the runs of a group share no epoch.
    """
    members = {}
    for run in runs:
        config = separating_flags(run.flags, run.config.get("precision"))
        members.setdefault(tuple(config.items()), []).append(run)
    configs = list(map(dict, members))
    return [make_group(title_of(dict(key), configs), dict(key), group) for key, group in members.items()]


def separating_flags(flags, precision):
    """Returns {flag: value as text} of the flags that separate runs; `precision` replaces --precision auto."""
    config = vars(flags) | {"precision": precision}
    values = {name: value if isinstance(value, list) else [value] for name, value in config.items()}
    return {name: " ".join(map(str, value)) for name, value in values.items() if name not in IGNORED_FLAGS}


def title_of(config, configs):
    """Returns the precision and the flags that differ from other groups, or for a single group from the defaults."""
    others = configs if len(configs) > 1 else [separating_flags(build_parser().parse_args([]), "auto")]
    names = [name for name in config if name == "precision" or any(other[name] != config[name] for other in others)]
    return ", ".join(f"{name} {config[name]}" for name in names)


def make_group(title, config, runs):
    """Makes the Group of FinishedRuns with the same config."""
    runs = sorted(runs, key=lambda run: run.flags.seed)
    for run, next_run in itertools.pairwise(runs):
        seed = run.flags.seed
        if next_run.flags.seed == seed:
            raise UserError(f"{run.path} and {next_run.path} have the same flags and seed {seed}: leave one out")
    rows = [{row["epoch"]: row for row in run.rows} for run in runs]
    epochs = sorted(set.intersection(*map(set, rows)))
    if not epochs:
        paths = ", ".join(str(run.path) for run in runs)
        raise UserError(f"no epoch was evaluated in all of {paths}: make one report of each")
    curves = {}
    for label in runs[0].rows[0]["classifiers"]:
        curves[label] = np.array([[by_epoch[epoch]["classifiers"][label] for epoch in epochs] for by_epoch in rows])
    validation = [by_epoch[epochs[-1]].get("validation", {}) for by_epoch in rows]
    ema_label, reason = choose(primary(curves), validation)
    return Group(title, config, runs, epochs, curves, ema_label, reason, baseline_of(ema_label, curves))


def predictions_of(group):
    """Returns Predictions of the group's runs after its last epoch, and a phrase for each run without usable ones."""
    usable, problems = [], []
    for run in group.runs:
        try:
            predictions = read_predictions(run, group.ema_label)
            last = run.rows[-1]["epoch"]
            if last != group.epochs[-1]:
                raise UserError(f"the predictions of {run.path} are of epoch {last}, not {group.epochs[-1]}")
            if usable and not np.array_equal(predictions.labels, usable[0].labels):
                raise UserError(f"{run.path} was tested on other images than {usable[0].run.path}")
            usable.append(predictions)
        except UserError as error:
            problems.append(str(error))
    return usable, problems
