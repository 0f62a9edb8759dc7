"""Tables and figures over seeds, from run directories alone; no TensorFlow but for the gallery of images.

    python report.py runs/a runs/b runs/c           # three run directories, into report/
    python report.py runs/seeds --output docs       # a directory of runs, as train.py --seeds writes it

Runs that differ only by seed make one group: means with 95% t-intervals over its seeds, the gain of EMA paired seed
by seed. Writes report.html, which holds everything, and each figure as PNG and SVG beside it.
"""

import argparse
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

import flags as command_line
import report_figures
import report_gallery
import report_page
import report_tables
from errors import UserError, or_exit

# Beside the seed: how often a run was evaluated changes none of its numbers.
NOT_SHAPING = (command_line.MAY_CHANGE | {"seed", "seeds", "eval_every"}) - {"lr_cooldown"}


class Run(NamedTuple):
    path: Path
    flags: argparse.Namespace
    config: dict
    rows: list  # of metrics.jsonl


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


def build_parser():
    parser = argparse.ArgumentParser(
        prog="report.py", description="Tables and figures over seeds, from run directories.", allow_abbrev=False
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a directory of them")
    parser.add_argument("--output", metavar="DIR", default="report", help="where to write (default: report)")
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS directory of the images (default: each run's own)")
    return parser


def main(argv=None):
    """Reads the runs, prints the tables, and writes the report.

    Raises:
      UserError: a run is missing, damaged or given twice, or the output cannot be written.
    """
    arguments = build_parser().parse_args(argv)
    groups = make_groups([read_run(path) for path in expand(arguments.runs)])
    output = open_output(arguments.output)
    sections, texts = [], []
    for number, group in enumerate(groups, 1):
        tables = [report_tables.summary_table(group), report_tables.classifier_table(group)]
        tables = [table for table in tables if table]
        figures = report_figures.draw(group, output, f"{number}-" if len(groups) > 1 else "")
        gallery = report_gallery.gallery(group, arguments.data_dir)
        sections.append(report_page.section(group, [*tables, report_tables.run_table(group)], figures, gallery))
        texts += [group.title, *group.notes, *map(report_tables.as_text, tables), gallery.sentence]
    (output / "report.html").write_text(report_page.page(sections), encoding="utf-8")
    print(*texts, f"report: {output / 'report.html'}", sep="\n\n")  # last: a closed pipe (| head) costs no file


def open_output(name):
    output = Path(name)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror}): choose another --output") from None
    return output


# ---------------------------------------------------------------------------------------------------------------
# Reading


def expand(names):
    """The run directories named, or found one level below those named; each once, in order."""
    found = {}
    for path in map(Path, names):
        if not path.is_dir():
            raise UserError(f"{path} is no directory: name the --run_dir of a run of train.py")
        # A seed-* without a config.json is a run that failed: it must be named, not passed over.
        below = sorted(
            child
            for child in path.iterdir()
            if child.is_dir() and (child.name.startswith("seed-") or (child / "config.json").exists())
        )
        if not below or (path / "metrics.jsonl").exists():
            below.insert(0, path)
        for run in below:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def read_run(path):
    """Reads a run directory.

    Raises:
      UserError: it holds no run, no evaluation, or is damaged.
    """
    flags = command_line.load_flags(path)
    config = json.loads((path / "config.json").read_text())
    if not isinstance(config.get("versions", {}), dict):
        raise UserError(f"{path / 'config.json'} is damaged (versions is no object): leave {path} out")
    file = path / "metrics.jsonl"
    try:
        lines = file.read_text().splitlines() if file.exists() else []
        rows = [check_row(json.loads(line)) for line in _without_torn_end(lines)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): restore it from a copy, or leave {path} out") from None
    if not rows:
        raise UserError(f"{path} holds no evaluation yet: let it train with --resume, or leave it out")
    return Run(path, flags, config, rows)


def _without_torn_end(lines):
    """The lines without a last one that a crash cut short, which is no damage; any other is."""
    try:
        json.loads(lines[-1] if lines else "null")
    except (ValueError, RecursionError):
        return lines[:-1]
    return lines


def check_row(row):
    """Returns the row of metrics.jsonl; raises ValueError, KeyError or TypeError where the report cannot use it."""
    if not isinstance(row["epoch"], int):
        raise ValueError(f"epoch {row['epoch']!r}")
    named = {"raw_accuracy": row["raw_accuracy"], "ema_accuracy": row["ema_accuracy"], **row.get("classifiers", {})}
    for name, accuracy in named.items():
        if not 0 <= accuracy <= 1:  # NaN fails too
            raise ValueError(f"{name} {accuracy!r} is no fraction")
    return row


# ---------------------------------------------------------------------------------------------------------------
# Grouping


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
        defaults = shape_of(command_line.build_parser().parse_args([]), {})
        apart = [name for name, value in shape.items() if defaults.get(name) != value]
    else:
        apart = [name for name in shape if len({other.get(name) for other in shapes}) > 1]
    return ", ".join(f"{name} {shape[name]}" for name in apart) or "The default flags"


if __name__ == "__main__":
    or_exit(main)
