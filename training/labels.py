"""The name of a test classifier: whose weights, which decay, which batch statistics; and which average to use."""

from statistics import fmean
from typing import NamedTuple

DATASETS = ("cifar10", "synthetic")  # see data.DATASETS
EMA_STARTS = ("initial", "warmup", "unbiased")  # see ema.py
BATCH_STATS = ("raw", "averaged", "recomputed")  # policies; see ema.py
STATISTICS = {"raw": "raw network's", "averaged": "averaged", "recomputed": "recomputed"}  # in texts for people


class Label(NamedTuple):
    """One test classifier. Its text is what tables, files and checkpoints say:

    raw                           the raw weights with the raw network's batch statistics
    raw/recomputed                the raw weights with statistics recomputed over training images
    ema/<decay>/<statistics>      averaged weights; statistics are one of raw, averaged, recomputed
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
        """The label that `text` is the text of.

        Raises:
          ValueError: it is none.
        """
        match text.split("/"):
            case ["raw"]:
                return cls("raw")
            case ["raw", "recomputed"]:
                return cls("raw", None, "recomputed")
            case ["ema", decay, "raw" | "averaged" | "recomputed" as statistics] if decay:
                return cls("ema", decay, statistics)
        raise ValueError(f"{text!r} is not the label of a classifier")

    @property
    def weights_name(self):
        return f"EMA {self.decay}" if self.weights == "ema" else "raw weights"

    @property
    def display_name(self):
        """Its name in texts for people."""
        if self == RAW:
            return self.weights_name
        return f"{self.weights_name}, {STATISTICS[self.statistics]} statistics"

    @property
    def recomputed(self):
        """Whether the batch statistics are its own, recomputed before every evaluation."""
        return self.statistics == "recomputed"

    def replaced(self, var_class, batch_stats):
        """Those of the raw network's weights and batch statistics that the classifier reads others in place of."""
        return (var_class if self.weights == "ema" else []) + (batch_stats if self.statistics != "raw" else [])

    @property
    def baseline(self):
        """The label that this one is fairly compared with: the raw weights, with recomputed statistics if it has such.

        Batch statistics alone change the accuracy of the raw weights, so a gain counts at equal statistics. The raw
        weights have no averaged statistics of their own: "averaged" is compared with plain "raw". None for "raw".
        """
        if self == RAW:
            return None
        return RAW_RECOMPUTED if self.weights == "ema" and self.statistics == "recomputed" else RAW


RAW = Label("raw")
RAW_RECOMPUTED = Label("raw", None, "recomputed")


def primary(labels):
    """The first of the texts of labels that is of averaged weights; None where there is none."""
    return next((label for label in labels if label.startswith("ema/")), None)


def baseline_of(label, labels):
    """The text of the label that `label` is compared with, out of those that were evaluated.

    Args:
      label: text of a label.
      labels: texts of all that there are, "raw" among them.

    Returns:
      The fair baseline; "raw" where that was not evaluated; None for "raw" itself.

    Raises:
      ValueError: `label` is the text of no label.
    """
    fair = Label.parse(label).baseline
    if fair is None:
        return None
    return str(fair) if str(fair) in labels else str(RAW)


class Choice(NamedTuple):
    label: str
    reason: str  # why that one, a phrase


def choose(primary, validation):
    """Chooses a classifier of averaged weights without a look at the test images.

    Args:
      primary: text of the label of the primary average.
      validation: one dict for each run, text of a label to accuracy on the images held out with --validation_size;
        empty where none were. Labels that begin with "raw" are of no average.

    Returns:
      The Choice of the average with the best mean over the runs, the first named where several are best; of the primary
      one where a run held out no images.
    """
    first = validation[0] if validation else {}
    means = {
        label: fmean(accuracies[label] for accuracies in validation)
        for label in first
        if not label.startswith("raw") and all(label in accuracies for accuracies in validation)
    }
    if not means:
        return Choice(primary, "the primary average, as no images were held out with --validation_size")
    return Choice(max(means, key=means.get), f"the best of {len(means)} averages on the validation images")
