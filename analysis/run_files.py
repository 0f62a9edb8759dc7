"""A run directory, read: its flags, what config.json says of where it was made, its evaluations. No TensorFlow."""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

from training.command import UserError
from training.flags import load_config, load_flags
from training.labels import Label


class FinishedRun(NamedTuple):
    path: Path
    flags: argparse.Namespace
    config: dict
    rows: list  # of metrics.jsonl


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
    flags = load_flags(path)
    config = load_config(path)
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
    return FinishedRun(path, flags, config, rows)


def _without_torn_end(lines):
    """The lines without a last one that a crash cut short, which is no damage; any other is."""
    try:
        json.loads(lines[-1] if lines else "null")
    except (ValueError, RecursionError):
        return lines[:-1]
    return lines


def check_row(row):
    """Returns the row of metrics.jsonl; raises ValueError, KeyError or TypeError where the report cannot use it."""
    named = {"raw_accuracy": row["raw_accuracy"], "ema_accuracy": row["ema_accuracy"], **row.get("classifiers", {})}
    for accuracies in (named, row.get("validation", {})):
        for name, accuracy in accuracies.items():
            if not 0 <= accuracy <= 1:  # NaN fails too
                raise ValueError(f"{name} {accuracy!r} is no fraction")
    for label in row.get("classifiers", {}):
        Label.parse(label)
    for name in ("epoch", "step"):
        if not isinstance(row[name], int) or row[name] < 1:
            raise ValueError(f"{name} {row[name]!r}")
    return row
