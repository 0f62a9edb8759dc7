"""CIFAR-10 through TFDS, a synthetic stand-in, and batches made on the device.

The images stay on the device as uint8. The order of an epoch, and the random flips and shifts, are pure
functions of (seed, epoch) and (seed, step), so a resumed run sees exactly the batches it would have seen.
"""

import math
import queue
import shlex
import threading
import urllib.request
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from errors import UserError

IMAGE_SHAPE = (32, 32, 3)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
CONNECT_SECONDS = 20
MAX_SHIFT = 4  # pixels, in each direction
SYNTHETIC_SIZES = (8192, 2048)


class Split(NamedTuple):
    """images [N, 32, 32, 3] uint8, labels [N] int64 in [0, 10)."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    train: Split
    test: Split
    source: str  # for the log: what and from where
    validation: Split | None = None  # held out of `train`, where that was asked for


def load(name, data_dir=None, train_size=None, test_size=None):
    """Loads "cifar10" or "synthetic", the first `train_size` and `test_size` images of it.

    Raises:
      UserError: the data is missing, damaged, cannot be downloaded, or has fewer images than asked for.
    """
    splits, source = _synthetic() if name == "synthetic" else _cifar10(data_dir)
    sizes = {"train": train_size, "test": test_size}
    for split, size in sizes.items():
        available = len(splits[split].labels)
        if size and size > available:
            raise UserError(f"--{split}_size {size} is more than the {available} images there are: ask for fewer", 2)
    train, test = (Split(*(array[: sizes[split]] for array in splits[split])) for split in ("train", "test"))
    return Dataset(train, test, f"{source}, {len(train.labels)} training and {len(test.labels)} test images")


def hold_out(dataset, size):
    """Moves the last `size` training images to `validation`; with size 0 the data set stays as it is.

    Raises:
      UserError: no training image would be left.
    """
    if not size:
        return dataset
    kept = len(dataset.train.labels) - size
    if kept < 1:
        raise UserError(f"--validation_size {size} leaves none of {kept + size} training images: hold out fewer", 2)
    train, validation = Split(*(a[:kept] for a in dataset.train)), Split(*(a[kept:] for a in dataset.train))
    source = f"{dataset.source}; the last {size} training images are held out for validation"
    return dataset._replace(train=train, validation=validation, source=source)


def replace_labels(labels, share, seed):
    """Symmetric label noise: round(share N) labels, each replaced by one of the nine others, all equally likely.

    Args:
      labels: [N] int64.
      share: in [0, 1].
      seed: Python int; which labels and by what is a pure function of (labels, share, seed), and a larger share
        replaces those of a smaller one and more.

    Returns:
      [N] int64.
    """
    random = np.random.default_rng([seed, 11])
    which = random.permutation(len(labels))
    others = (labels + random.integers(1, len(CLASSES), len(labels))) % len(CLASSES)
    noisy = labels.copy()
    chosen = which[: round(share * len(labels))]
    noisy[chosen] = others[chosen]
    return noisy


def _cifar10(data_dir):
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    if data_dir and not Path(data_dir).is_dir():
        raise UserError(
            f"the data directory {data_dir} does not exist: create it (mkdir -p {data_dir}) to have CIFAR-10 "
            "downloaded there, or name one that holds it"
        )
    root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    folder = root / "cifar10" / str(tfds.builder_cls("cifar10").VERSION)
    if not folder.exists():  # TFDS prepares beside it and renames: where it is, it once was whole
        _prepare(root)
    remedy = f"delete it (rm -r {shlex.quote(str(folder))}) and run the same command again to have it prepared anew"
    try:
        builder = tfds.builder("cifar10", data_dir=root)
        shards = [path for split in builder.info.splits.values() for path in split.filepaths]
        for path in map(Path, [folder / "dataset_info.json", *shards]):
            if not path.exists():
                raise UserError(f"{folder} is only half prepared, {path.name} is missing: {remedy}")
        splits = {name: _read(builder, name) for name in ("train", "test")}
    except UserError:
        raise
    except Exception as error:  # TFDS parses JSON, protocol buffers, records and PNG, each with errors of its own
        raise UserError(f"{folder} is damaged ({_first_line(error)}): {remedy}") from None
    return splits, f"CIFAR-10 from {folder}"


def _first_line(error):
    return next(iter(str(error).splitlines()), type(error).__name__)


def _read(builder, split):
    import tensorflow_datasets as tfds

    with tf.Graph().as_default():
        tensors = builder.as_dataset(split=split, batch_size=-1, shuffle_files=False)
        arrays = tfds.as_numpy(tensors)
    images, labels = arrays["image"], arrays["label"].astype(np.int64)
    expected = builder.info.splits[split].num_examples
    if len(labels) != expected or images.shape[1:] != IMAGE_SHAPE or images.dtype != np.uint8:
        raise ValueError(f"{split} holds images {images.shape} {images.dtype}, not ({expected}, 32, 32, 3) uint8")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"{split} holds a label outside 0..9")
    return Split(images, labels)


def _prepare(root):
    """Downloads CIFAR-10 into a TFDS directory, or takes the archive that was put there by hand.

    TFDS checks the archive's SHA-256 before it unpacks it, into a directory of its own.
    """
    import tensorflow_datasets as tfds

    archive = root / ARCHIVE
    by_hand = archive.is_file()
    offline = (
        f"fetch {ARCHIVE_URL} on a machine that can, put it into {root} and run the same command again, "
        "or try everything without data: make demo"
    )
    if not by_hand:
        print(f"CIFAR-10 is not in {root} yet: downloading 162 MiB from {ARCHIVE_URL}", flush=True)
        _check_reachable(offline)
    config = tfds.download.DownloadConfig(manual_dir=root) if by_hand else None
    try:
        tfds.builder("cifar10", data_dir=root).download_and_prepare(download_config=config)
    except tfds.download.download_manager.NonMatchingChecksumError:
        if by_hand:
            raise UserError(
                f"{archive} is not the published archive, its checksum is wrong: delete it (rm "
                f"{shlex.quote(str(archive))}), {offline}"
            ) from None
        raise UserError(
            f"what came from {ARCHIVE_URL} has the wrong checksum: run the same command again, or {offline}"
        ) from None
    except Exception as error:  # TFDS and its HTTP client raise many kinds; each means that the data did not come
        raise UserError(f"CIFAR-10 could not be prepared ({_first_line(error)}): {offline}") from None


def _check_reachable(offline):
    """TFDS retries a dead network for minutes; this finds out within CONNECT_SECONDS, DNS included."""
    outcome = queue.Queue()

    def ask():
        try:
            request = urllib.request.Request(ARCHIVE_URL, method="HEAD")
            urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
            outcome.put(None)
        except OSError as error:
            outcome.put(getattr(error, "reason", error))

    threading.Thread(target=ask, daemon=True).start()  # the end of the process does not wait for the answer
    try:
        reason = outcome.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        reason = f"no answer within {CONNECT_SECONDS} s"
    if reason is not None:
        raise UserError(f"CIFAR-10 could not be downloaded ({reason}): {offline}")


def _synthetic():
    sizes = SYNTHETIC_SIZES
    return {"train": draw_synthetic(sizes[0], seed=1), "test": draw_synthetic(sizes[1], seed=2)}, "synthetic"


def draw_synthetic(size, seed):
    """Draws a learnable, not trivially separable 10-class set; a pure function of its arguments.

    A class is a smooth random colour pattern. An image is its class's pattern, shifted on a torus,
    blended with the pattern of another class that may weigh nearly as much, with its own contrast and
    brightness, under pixel noise.

    Returns:
      Split of `size` images.
    """
    patterns = _smooth_patterns(np.random.default_rng(0))
    random = np.random.default_rng([seed, 7])
    labels = random.integers(0, 10, size)
    others = (labels + random.integers(1, 10, size)) % 10
    share = random.uniform(0.0, 0.48, size)[:, None, None, None].astype(np.float32)
    images = (1 - share) * _shifted(patterns, labels, random) + share * _shifted(patterns, others, random)
    contrast = random.uniform(20, 60, (size, 1, 1, 1)).astype(np.float32)
    brightness = random.uniform(-30, 30, (size, 1, 1, 3)).astype(np.float32)
    noise = random.standard_normal(images.shape, dtype=np.float32)
    pixels = 127.5 + brightness + contrast * images + 40 * noise
    return Split(np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels)


def _smooth_patterns(random):
    """[10, 32, 32, 3] float32 periodic patterns of low spatial frequency, mean 0 and variance 1 each."""
    spectrum = np.fft.fft2(random.standard_normal((10, 32, 32, 3)), axes=(1, 2))
    frequency = np.abs(np.fft.fftfreq(32, 1 / 32))
    keep = (frequency[:, None] <= 4) & (frequency[None, :] <= 4)
    patterns = np.fft.ifft2(spectrum * keep[None, :, :, None], axes=(1, 2)).real
    patterns -= patterns.mean(axis=(1, 2, 3), keepdims=True)
    return (patterns / patterns.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


def _shifted(patterns, classes, random):
    size = len(classes)
    rows = (np.arange(32) + random.integers(0, 32, (size, 1))) % 32
    columns = (np.arange(32) + random.integers(0, 32, (size, 1))) % 32
    return patterns[classes[:, None, None], rows[:, :, None], columns[:, None, :]]


# ---------------------------------------------------------------------------------------------------------------
# On the device


def resident(array, name):
    """A local variable that holds `array` on the device, and the feed for its initializer.

    Local variables are in no checkpoint, and feeding keeps the array out of the graph definition.

    Returns:
      (variable, {placeholder: array}).
    """
    placeholder = tf.placeholder(array.dtype, array.shape)
    variable = tf.get_variable(
        name, initializer=placeholder, trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES]
    )
    return variable, {placeholder: array}


def epoch_order(seed, epoch, size):
    """The order of an epoch: a permutation of range(size), [size] int64, a pure function of (seed, epoch).

    Args:
      seed: Python int.
      epoch: integer scalar tensor.
      size: Python int.
    """
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    # Sorting random keys compiles everywhere; stateless_shuffle has no XLA kernel.
    keys = tf2.random.stateless_uniform([size], key, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def to_float(images):
    """uint8 pixels to float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1


def augment(images, seed):
    """Flips each image left to right with probability 1/2 and shifts it by up to MAX_SHIFT pixels, edges reflected.

    Args:
      images: [N, H, W, C], any dtype.
      seed: int32 [2]; the result is a pure function of (images, seed).
    """
    size, height, width = images.shape[:3]
    seeds = tf2.random.split(seed, 3, "philox")
    flip = tf2.random.stateless_uniform([size, 1], seeds[0], alg="philox") < 0.5
    rows = tf.range(height) + tf2.random.stateless_uniform(
        [size, 1], seeds[1], -MAX_SHIFT, MAX_SHIFT + 1, tf.int32, "philox"
    )
    columns = tf.range(width) + tf2.random.stateless_uniform(
        [size, 1], seeds[2], -MAX_SHIFT, MAX_SHIFT + 1, tf.int32, "philox"
    )
    columns = tf2.where(flip, width - 1 - columns, columns)
    images = tf.gather(images, _reflect(rows, height), axis=1, batch_dims=1)
    return tf.gather(images, _reflect(columns, width), axis=2, batch_dims=1)


def _reflect(index, size):
    return size - 1 - abs(size - 1 - abs(index))


def map_images(function, images, count, batch_size):
    """`function` over the first `count` images in batches, as one loop on the device; nothing is dropped.

    Args:
      function: [batch_size, 32, 32, 3] float32 in [-1, 1] to [batch_size, K] float32.
      images: variable or tensor [at least count, 32, 32, 3] uint8.

    Returns:
      [count, K] float32.
    """
    batches = math.ceil(count / batch_size)

    def batch(index):
        # The last batch repeats the last image instead of being short: shapes stay static, the surplus is cut off.
        indices = tf.minimum(index * batch_size + tf.range(batch_size, dtype=tf.int64), count - 1)
        return function(to_float(tf.gather(images, indices)))

    results = tf.map_fn(batch, tf.range(batches, dtype=tf.int64), fn_output_signature=tf.float32, parallel_iterations=1)
    return tf.reshape(results, [batches * batch_size, -1])[:count]
