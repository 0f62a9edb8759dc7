"""Which of a run's averages to use: the one chooser of table, posthoc, export, predict and report. No TensorFlow."""

from typing import NamedTuple

import numpy as np


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
        label: np.mean([accuracies[label] for accuracies in validation])
        for label in first
        if not label.startswith("raw") and all(label in accuracies for accuracies in validation)
    }
    if not means:
        return Choice(primary, "the primary average, as no images were held out with --validation_size")
    return Choice(max(means, key=means.get), f"the best of {len(means)} averages on the validation images")
