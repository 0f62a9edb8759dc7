"""What runs answered to each test image, from their predictions.npz: of the primary EMA and of its baseline."""

import json
import zipfile
from typing import NamedTuple

import numpy as np

from analysis.run_files import FinishedRun
from training.command import UserError
from training.labels import baseline_of, primary

CLASS_COUNT = 10
# What reading a file raises that is missing, torn or something else.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile)


class Predictions(NamedTuple):
    """One run's, of N test images."""

    run: FinishedRun
    epoch: int  # after which they were made: the run's last
    labels: np.ndarray  # true classes [N] int64
    primary: str  # label of the EMA classifier
    against: str  # label of its baseline
    ema: np.ndarray  # logits [N, 10], floating point
    baseline: np.ndarray  # the same of the baseline


def read_all(group):
    """The predictions of a group's runs.

    Returns:
      (found, missing): Predictions in the order of the runs, and a phrase for each run that has none to use.
    """
    found, missing = [], []
    for run in group.runs:
        try:
            found.append(read_predictions(run, group.primary))
        except UserError as error:
            missing.append(str(error))
    return found, missing


def read_predictions(run, ema=None):
    """The predictions of a FinishedRun.

    Args:
      ema: label of the EMA classifier to read; None for the file's first.

    Raises:
      UserError: there is no such file, it is damaged, or lacks the classifier.
    """
    path = run.path / "predictions.npz"
    if not path.exists():
        raise UserError(f"{run.path} holds no predictions.npz")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ema = ema or primary(arrays.files)
            if ema is None:
                raise UserError(f"{path} holds no EMA classifier")
            against = baseline_of(ema, arrays.files)
            answers = {label: arrays[label] for label in ("labels", ema, against)}
    except KeyError as error:
        raise UserError(f"{path} lacks an array ({str(error).strip(chr(34))})") from None
    except DAMAGE as error:
        raise UserError(f"{path} is damaged ({error})") from None
    labels = answers["labels"]
    _check(path, labels, answers[ema], answers[against])
    return Predictions(run, epoch_of(run), labels.astype(np.int64), ema, against, answers[ema], answers[against])


def at_the_end(path, step):
    """The arrays of the predictions.npz of a run directory; {} where there is none of `step`, or a damaged one."""
    try:
        if json.loads((path / "summary.json").read_text())["step"] != step:
            return {}
        with np.load(path / "predictions.npz", allow_pickle=False) as arrays:
            return dict(arrays)
    except DAMAGE:
        return {}


def epoch_of(run):
    """The epoch of a run's predictions.npz: that of summary.json, written beside it when training ended.

    metrics.jsonl may be further, where a finished run was given more epochs and has not come to their end; its last
    row decides only where there is no summary to read.
    """
    try:
        epoch = json.loads((run.path / "summary.json").read_text())["epoch"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        epoch = None
    return epoch if isinstance(epoch, int) else run.rows[-1]["epoch"]


def _check(path, labels, *scores):
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise UserError(f"{path} is damaged: its labels are {labels.dtype} {labels.shape}, not a vector of integers")
    if not ((labels >= 0) & (labels < CLASS_COUNT)).all():
        raise UserError(f"{path} is damaged: its labels are not all classes from 0 to {CLASS_COUNT - 1}")
    for array in scores:
        if array.shape != (len(labels), CLASS_COUNT) or array.dtype.kind != "f":
            raise UserError(
                f"{path} is damaged: scores are {array.dtype} {array.shape}, not float32 ({len(labels)}, {CLASS_COUNT})"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path} holds scores that are not finite")
