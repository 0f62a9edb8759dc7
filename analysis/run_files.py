"""The files of a run, read: its flags, evaluations and predictions; and which directories are runs. No TensorFlow."""

import argparse
import contextlib
import json
import shlex
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.cli import UserError, script
from training.files import open_arrays
from training.flags import load_config, load_flags
from training.labels import Label, baseline_of

CLASS_COUNT = 10
# What reading a file raises that is missing, torn or something else.
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile)


class FinishedRun(NamedTuple):
    path: Path
    flags: argparse.Namespace
    config: dict
    rows: list  # of metrics.jsonl


class Predictions(NamedTuple):
    """Of one run and N test images."""

    run: FinishedRun
    epoch: int  # its last
    labels: np.ndarray  # true classes [N] int64
    ema: np.ndarray  # logits [N, 10] of an EMA classifier
    baseline: np.ndarray  # the same of its baseline


def resolve_runs(names):
    """The run directories named and, in the place of other directories, those below them; each once.

    A run below that was not evaluated yet is passed over, which a line on stderr says.
    """
    found = {}
    for name in names:
        for run in find_runs(Path(name)):
            metrics = run / "metrics.jsonl"
            if run != Path(name) and not (metrics.exists() and metrics.stat().st_size):
                print(f"passed over: {run} was not evaluated yet", file=sys.stderr)
                continue
            found.setdefault(run.resolve(), run)
    return list(found.values())


def find_runs(path):
    """The run in a directory, or all runs below it, in order."""
    found = [path] if (path / "config.json").exists() else sorted(file.parent for file in path.rglob("config.json"))
    if not found:
        raise UserError(f"{path} is not a run directory")
    return found


def require_single_run(name):
    """The path of a run; where it is none, the UserError names those that lie below."""
    path, found = Path(name), find_runs(Path(name))
    if found != [path]:
        below = textwrap.shorten(", ".join(str(run.relative_to(path)) for run in found), 200)
        raise UserError(
            f"{path} is no run, but holds {below}: name one of these with --run_dir, or compare them with "
            f"{script('report')} {shlex.quote(str(path))}"
        )
    return path


@contextlib.contextmanager
def read_errors(file, remedy=""):
    """Turns what reading a damaged file raises into one sentence; what may not be read is not damaged."""
    try:
        yield
    except PermissionError:
        raise UserError(f"{file} cannot be read: get access") from None
    except READ_ERRORS as error:
        raise UserError(f"{file} is damaged ({error}){remedy}") from None


def read_run(path):
    """Reads a run directory; a UserError where it holds no run, no evaluation, or is damaged."""
    flags, config = load_flags(path), load_config(path)
    if not isinstance(config.get("versions", {}), dict):
        raise UserError(f"{path / 'config.json'} is damaged (versions is no object): leave {path} out")
    file = path / "metrics.jsonl"
    with read_errors(file, f": restore it from a copy, or leave {path} out"):
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        *lines, last = text.split("\n")
        with contextlib.suppress(ValueError):  # of a line that a crash cut short
            json.loads(last)
            lines.append(last)
        rows = [check_row(json.loads(line)) for line in lines]
        if len({frozenset(row["classifiers"]) for row in rows}) > 1:
            raise ValueError("its lines name different classifiers")
    if not rows:
        raise UserError(f"{path} holds no evaluation yet: let it train with --resume, or leave it out")
    return FinishedRun(path, flags, config, rows)


def check_row(row):
    """Raises an error if the report could not use this row of metrics.jsonl."""
    accuracies = [row["raw_accuracy"], row["ema_accuracy"], *row["classifiers"].values()]
    accuracies += row.get("validation", {}).values()
    if not all(0 <= accuracy <= 1 for accuracy in accuracies) or row["epoch"] < 1 or row["step"] < 1:
        raise ValueError("an accuracy, epoch or step is out of range")
    if not {"raw", "ema"} <= {Label.parse(label).weights for label in row["classifiers"]}:
        raise ValueError("raw or averaged weights are missing")
    return row


def read_predictions(run, ema):
    """The Predictions of a FinishedRun; ema: text of the label of an EMA classifier.

    Raises:
      UserError: there is no such file, it is damaged, or lacks the classifier.
    """
    path = run.path / "predictions.npz"
    if not path.exists():
        raise UserError(f"{run.path} holds no predictions.npz")
    with read_errors(path), open_arrays(path) as arrays:
        names = ["labels", ema, baseline_of(ema, arrays.files)]
        if missing := [name for name in names if name not in arrays.files]:
            raise UserError(f"{path} lacks an array ({missing[0]})")
        labels, *scores = (arrays[name] for name in names)
        check_predictions(labels, scores)
    return Predictions(run, run.rows[-1]["epoch"], labels.astype(np.int64), *scores)


def check_predictions(labels, scores):
    """Raises ValueError unless labels [N] are classes, and every one of `scores` is finite, [N, 10]."""
    classes = labels.ndim == 1 and labels.dtype.kind in "iu" and ((labels >= 0) & (labels < CLASS_COUNT)).all()
    shape = (len(labels), CLASS_COUNT) if classes and len(labels) else None
    if not all(array.shape == shape and array.dtype.kind == "f" and np.isfinite(array).all() for array in scores):
        raise ValueError("labels that are not classes, or scores [N, 10] that are not finite")


def predictions_of_step(path, step):
    """The true classes [N] and {label: logits [N, 10]} that a run left; None and {} where those of `step` are not
    there, or are not what its summary.json says."""
    with contextlib.suppress(*READ_ERRORS):
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        with open_arrays(path / "predictions.npz") as arrays:
            scores = dict(arrays)
        labels = scores.pop("labels")
        check_predictions(labels, scores.values())
        accuracy = {label: np.mean(logits.argmax(1) == labels) for label, logits in scores.items()}
        if (summary["step"], summary["classifiers"]) == (step, accuracy):
            return labels, scores
    return None, {}
