"""Names of test classifiers, data sets, starts of the average and batch statistics; needs no TensorFlow."""

from statistics import fmean
from typing import NamedTuple

DATASETS = ("cifar10", "synthetic")  # data.DATASETS describes them
EMA_STARTS = ("initial", "warmup", "unbiased")  # ema.STARTS implements them
BATCH_STATS = ("raw", "averaged", "recomputed")
STATISTICS = {"raw": "raw network's", "averaged": "averaged", "recomputed": "recomputed"}  # for people


class Label(NamedTuple):
    """A test classifier. Its text is used in files, checkpoints and tables:

    raw                           raw weights with the raw network's batch statistics
    raw/recomputed                raw weights with statistics recomputed over training images
    ema/<decay>/<statistics>      averaged weights with statistics from BATCH_STATS
    """

    weights: str  # "raw" or "ema"
    decay: str | None = None  # as typed; None for the raw weights
    statistics: str = "raw"

    def __str__(self):
        if self.weights == "ema":
            return f"ema/{self.decay}/{self.statistics}"
        return self.weights if self.statistics == "raw" else f"{self.weights}/{self.statistics}"

    @classmethod
    def parse(cls, text):
        """Returns the label with this text; raises ValueError if it is not the text of a label."""
        match text.split("/"):
            case ["raw"]:
                return cls("raw")
            case ["raw", "recomputed"]:
                return cls("raw", None, "recomputed")
            case ["ema", decay, statistics] if decay and statistics in BATCH_STATS:
                return cls("ema", decay, statistics)
        raise ValueError(f"{text!r} is not the label of a classifier")

    @property
    def weights_name(self):
        return f"EMA {self.decay}" if self.weights == "ema" else "raw weights"

    @property
    def display_name(self):
        """The name for people."""
        if self == RAW:
            return self.weights_name
        return f"{self.weights_name}, {STATISTICS[self.statistics]} statistics"

    @property
    def recomputed(self):
        """True if the batch statistics are recomputed before every evaluation."""
        return self.statistics == "recomputed"

    def replaced(self, var_class, batch_stats):
        """Returns the raw variables that this classifier replaces."""
        return (var_class if self.weights == "ema" else []) + (batch_stats if self.statistics != "raw" else [])

    @property
    def baseline(self):
        """The fair label of the raw weights to compare with, or None for RAW.

        Statistics alone change the accuracy, so a gain must compare equal statistics; the raw weights have no averaged
        statistics, so RAW is compared with them.
        """
        if self == RAW:
            return None
        return RAW_RECOMPUTED if self.weights == "ema" and self.statistics == "recomputed" else RAW


RAW = Label("raw")
RAW_RECOMPUTED = Label("raw", None, "recomputed")


def primary(labels):
    """Returns the first text of an average among the texts of labels, or None."""
    return next((label for label in labels if label.startswith("ema/")), None)


def baseline_of(label, labels):
    """Returns the text of the baseline of `label`, or "raw" if `labels` lack that baseline; None for "raw" itself."""
    fair = Label.parse(label).baseline
    if fair is None:
        return None
    return str(fair) if str(fair) in labels else str(RAW)


class Choice(NamedTuple):
    label: str
    reason: str  # a phrase for people


def choose(primary, validation):
    """Chooses an average without using the test images.

    Args:
      primary: text of the label of the primary average.
      validation: for each run, {text of a label: accuracy on the validation images}; empty without validation images.

    Returns:
      The Choice with the best mean over the runs, the first among equals; `primary` if a run has no validation images.
    """
    first = validation[0] if validation else {}
    means = {
        label: fmean(accuracies[label] for accuracies in validation)
        for label in first
        if not label.startswith("raw") and all(label in accuracies for accuracies in validation)
    }
    if not means:
        return Choice(primary, "the primary average, because there are no validation images (--validation_size)")
    return Choice(max(means, key=means.get), f"the best of {len(means)} averages on the validation images")
