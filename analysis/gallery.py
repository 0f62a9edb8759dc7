"""The test images that EMA fixed and broke, from a run's predictions.npz; only this part needs TensorFlow."""

import functools
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.errors import UserError
from training.stderr import captured_stderr

CLASS_COUNT = 10
TILES = 24  # of each kind


class Tile(NamedTuple):
    """One test image [32, 32, 3] uint8, and class names."""

    image: np.ndarray
    truth: str
    raw: str
    ema: str


class Gallery(NamedTuple):
    sentence: str  # what is shown, or why nothing is
    fixed: list  # of Tile: raw wrong, EMA right
    broken: list  # of Tile: raw right, EMA wrong


def gallery(group, data_dir=None):
    """The gallery of the group's first run that left predictions.

    Args:
      data_dir: TFDS directory of the test images, in place of the run's own.
    """
    run = next((run for run in group.runs if (run.path / "predictions.npz").exists()), None)
    if run is None:
        return Gallery("No gallery of images: the runs hold no predictions.npz.", [], [])
    try:
        labels, raw, ema, name = read_predictions(run.path, group.ema_label)
        images = load_images(run.flags.dataset, data_dir or run.flags.data_dir, run.flags.test_size, labels)
    except UserError as error:
        return Gallery(f"No gallery of images: {error}.", [], [])
    fixed, broken = ((raw != labels) & (ema == labels), (raw == labels) & (ema != labels))
    sentence = (
        f"In {run.path} the classifier {name} is right on {fixed.sum():,} test images that raw gets wrong, and wrong "
        f"on {broken.sum():,} that raw gets right, of {len(labels):,}. Shown are the first of each in the order of the "
        f"test set, at most {TILES}."
    )
    tile = functools.partial(_tile, images, class_names(run.flags.dataset), labels, raw, ema)
    return Gallery(sentence, *([tile(index) for index in np.flatnonzero(kind)[:TILES]] for kind in (fixed, broken)))


def _tile(images, names, labels, raw, ema, index):
    return Tile(images[index], *(names[answers[index]] for answers in (labels, raw, ema)))


def read_predictions(run_dir, ema_label):
    """Labels and answers of a run.

    Args:
      ema_label: the classifier to read beside raw; None for the file's first EMA.

    Returns:
      (labels, raw, ema, name): int64 [N] three times, and the label of the EMA classifier.

    Raises:
      UserError: the file is damaged, or lacks one of the two.
    """
    path = run_dir / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = ema_label or next(key for key in arrays.files if key.startswith("ema"))
            labels, raw, ema = (arrays[key] for key in ("labels", "raw", name))
    except StopIteration:
        raise UserError(f"{path} holds no EMA classifier") from None
    except KeyError as error:
        raise UserError(f"{path} lacks an array ({str(error).strip(chr(34))})") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error})") from None
    _check(path, labels, raw, ema)
    return labels.astype(np.int64), raw.argmax(1), ema.argmax(1), name


def _check(path, labels, *scores):
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{path} is damaged: its labels are {labels.dtype} {labels.shape}, not a vector of integers")
    for array in scores:
        if array.shape != (len(labels), CLASS_COUNT) or array.dtype.kind != "f":
            raise UserError(
                f"{path} is damaged: scores are {array.dtype} {array.shape}, not float32 ({len(labels)}, {CLASS_COUNT})"
            )
        if not np.isfinite(array).all():
            raise UserError(f"{path} holds scores that are not finite")


@functools.cache
def load_test_split(dataset, data_dir, test_size):
    """The test split of `data.load`, which is not asked to download anything.

    Raises:
      UserError: the data set is not there.
    """
    with captured_stderr():
        import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    import data

    if dataset == "cifar10":
        import tensorflow_datasets as tfds

        folder = Path(tfds.builder("cifar10", data_dir=data_dir).data_dir)
        if not folder.exists():
            raise UserError(f"CIFAR-10 is not in {folder}, name the directory that holds it with --data_dir")
    with captured_stderr():  # reading the files starts TensorFlow's devices
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
