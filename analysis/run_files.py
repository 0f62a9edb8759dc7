"""Files of finished runs: flags, evaluations and predictions. Works without TensorFlow."""

import argparse
import contextlib
import json
import shlex
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.cli import UserError, script
from training.files import open_arrays
from training.flags import load_config, load_flags
from training.labels import Label, baseline_of

# Raised by reading a missing, truncated or corrupt file.
READ_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile)


class FinishedRun(NamedTuple):
    path: Path
    flags: argparse.Namespace
    config: dict
    rows: list  # of metrics.jsonl


class Predictions(NamedTuple):
    """Predictions of one run for N test images, after its last epoch."""

    run: FinishedRun
    labels: np.ndarray  # true classes [N]
    ema: np.ndarray  # logits [N, K] of an EMA classifier
    baseline: np.ndarray  # logits [N, K] of its baseline


def resolve_runs(names):
    """Returns the runs at or below the paths in `names`, each once; skips those below that were not evaluated yet."""
    runs = {}
    for name in names:
        for run in find_runs(Path(name)):
            metrics = run / "metrics.jsonl"
            if run != Path(name) and not (metrics.exists() and metrics.stat().st_size):
                print(f"skipped {run}: not evaluated yet", file=sys.stderr)
                continue
            runs.setdefault(run.resolve(), run)
    return list(runs.values())


def find_runs(path):
    """Returns [path] if it is a run, or else all runs below it, sorted."""
    if (path / "config.json").exists():
        return [path]
    runs = sorted(file.parent for file in path.rglob("config.json"))
    if not runs:
        raise UserError(f"{path} is not a run directory of train.py")
    return runs


def require_single_run(name):
    """Returns the path of a run directory; for a directory of runs the UserError names one."""
    path = Path(name)
    runs = find_runs(path)
    if runs != [path]:
        compare = f"{script('report')} {shlex.quote(str(path))}"
        raise UserError(
            f"{path} is not a run: pass --run_dir {runs[0]}, or compare its {len(runs)} runs with {compare}"
        )
    return path


@contextlib.contextmanager
def read_errors(file, hint=""):
    """Turns READ_ERRORS into a UserError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{file} is missing") from None
    except PermissionError:
        raise UserError(f"{file}: check the permissions") from None
    except READ_ERRORS as error:
        raise UserError(f"{file} is corrupt ({error}){hint}") from None


def read_run(path):
    """Returns the FinishedRun in a directory; raises UserError if it was not evaluated yet, or is corrupt."""
    config = load_config(path)
    file = path / "metrics.jsonl"
    with read_errors(file, f": restore it from a copy, or leave {path} out"):
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        *lines, _ = text.split("\n")  # the last line is empty, or was cut short by a crash
        rows = [check_row(json.loads(line)) for line in lines]
    if not rows:
        raise UserError(f"{path} was not evaluated yet: continue it with --resume, or leave it out")
    return FinishedRun(path, load_flags(path, config), config, rows)


def check_row(row):
    """Returns the row of metrics.jsonl; raises one of READ_ERRORS if the report could not use it."""
    accuracies = [*row["classifiers"].values(), *row.get("validation", {}).values()]
    if not all(0 <= accuracy <= 1 for accuracy in accuracies) or row["epoch"] < 1 or row["step"] < 1:
        raise ValueError("an accuracy, epoch or step is out of range")
    if {Label.parse(label).weights for label in row["classifiers"]} != {"raw", "ema"}:
        raise ValueError("raw or averaged weights are missing")
    return row


def load_predictions(path):
    """Returns (true classes [N], {label: finite logits [N, K]}) of predictions.npz; raises one of READ_ERRORS."""
    with open_arrays(path / "predictions.npz") as arrays:
        logits = dict(arrays)
    labels = logits.pop("labels")
    shape = (*labels.shape, logits["raw"].shape[1])
    if labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < shape[-1]:
        raise ValueError("labels are not classes")
    if not all(array.shape == shape and np.isfinite(array).all() for array in logits.values()):
        raise ValueError("logits are not finite, or have different shapes")
    return labels, logits


def read_predictions(run, ema):
    """Returns the Predictions of a FinishedRun for the label text of an EMA classifier; raises UserError without."""
    with read_errors(run.path / "predictions.npz"):
        labels, logits = load_predictions(run.path)
        return Predictions(run, labels, logits[ema], logits[baseline_of(ema, logits)])


def predictions_of_step(path, step):
    """Returns what `load_predictions` does if it was saved after `step` and matches summary.json, else (None, {})."""
    with contextlib.suppress(*READ_ERRORS):
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        labels, logits = load_predictions(path)
        accuracy = {label: np.mean(values.argmax(1) == labels) for label, values in logits.items()}
        if (summary["step"], summary["classifiers"]) == (step, accuracy):
            return labels, logits
    return None, {}
