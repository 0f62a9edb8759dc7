"""What a classifier is compared with: one meaning of "gain" for every table, figure and page.

A gain is the accuracy of a classifier less that of its fair baseline, which `training.labels.Label.baseline` names; a
run's gain is that of its primary EMA.
"""

from training.labels import RAW, Label


def primary(labels):
    """The text of the first label of averaged weights, which is the run's primary EMA; None where there is none."""
    return next((label for label in labels if label.startswith("ema/")), None)


def baseline_of(label, labels):
    """The text of the label that `label` is compared with, out of those that were evaluated.

    Args:
      label: text of a label.
      labels: texts of all that there are; "raw" is taken to be among them.

    Returns:
      The fair baseline; "raw" where a run of an earlier version lacks that; None for "raw" itself.

    Raises:
      ValueError: `label` is the text of no label.
    """
    fair = Label.parse(label).baseline
    if fair is None:
        return None
    return str(fair) if str(fair) in labels else str(RAW)
