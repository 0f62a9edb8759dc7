"""The test images that EMA fixed and broke, from a run's predictions; only this part needs TensorFlow."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.predictions import CLASS_COUNT
from training.command import UserError

TILES = 24  # of each kind


class Tile(NamedTuple):
    """One test image [32, 32, 3] uint8, and class names."""

    image: np.ndarray
    truth: str
    baseline: str
    ema: str


class Gallery(NamedTuple):
    sentence: str  # what is shown, or why nothing is
    against: str | None  # label of the baseline
    fixed: list  # of Tile: baseline wrong, EMA right
    broken: list  # of Tile: baseline right, EMA wrong


def gallery(group, found, missing, data_dir=None):
    """The gallery of the group's first run that left predictions.

    Args:
      found, missing: of `predictions.read_all`.
      data_dir: TFDS directory of the test images, in place of the run's own.
    """
    if not found:
        return _none("; ".join(missing))
    run, labels = found[0].run, found[0].labels
    try:
        images = load_images(run.flags.dataset, data_dir or run.flags.data_dir, run.flags.test_size, labels)
    except UserError as error:
        return _none(error)
    baseline, ema = found[0].baseline.argmax(1), found[0].ema.argmax(1)
    fixed, broken = ((baseline != labels) & (ema == labels), (baseline == labels) & (ema != labels))
    sentence = (
        f"In {run.path} after epoch {found[0].epoch}{_other_epoch(found[0].epoch, group)} the classifier "
        f"{found[0].primary} is right on {fixed.sum():,} test images that {found[0].against} gets wrong, and wrong on "
        f"{broken.sum():,} that {found[0].against} gets right, of {len(labels):,}. Shown are the first of each in the "
        f"order of the test set, at most {TILES}."
    )
    tile = functools.partial(_tile, images, class_names(run.flags.dataset), labels, baseline, ema)
    kinds = ([tile(index) for index in np.flatnonzero(kind)[:TILES]] for kind in (fixed, broken))
    return Gallery(sentence, found[0].against, *kinds)


def _none(reason):
    return Gallery(f"No gallery of images: {reason}.", None, [], [])


def _other_epoch(epoch, group):
    return "" if epoch == group.epochs[-1] else f" (the tables are of epoch {group.epochs[-1]})"


def _tile(images, names, labels, baseline, ema, index):
    return Tile(images[index], *(names[answers[index]] for answers in (labels, baseline, ema)))


@functools.cache
def load_test_split(dataset, data_dir, test_size):
    """The test split of `data.load`, which is not asked to download anything.

    Raises:
      UserError: the data set is not there.
    """
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    import data

    if dataset == "cifar10":
        import tensorflow_datasets as tfds

        folder = Path(tfds.builder("cifar10", data_dir=data_dir).data_dir)
        if not folder.exists():
            raise UserError(f"CIFAR-10 is not in {folder}, name the directory that holds it with --data_dir")
    return data.load(dataset, data_dir, None, test_size).test


def load_images(dataset, data_dir, test_size, labels):
    """The test images [N, 32, 32, 3] uint8 that go with the labels [N] of the predictions."""
    split = load_test_split(dataset, data_dir, test_size)
    if not np.array_equal(split.labels, labels):
        raise UserError("the predictions were made on other test images than those found")
    return split.images


def class_names(dataset):
    if dataset == "synthetic":
        return [f"class {index}" for index in range(CLASS_COUNT)]
    import data

    return data.CLASSES
