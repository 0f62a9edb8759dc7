"""The data of a run, and batches made on the device.

The images stay on the device as uint8. The order of an epoch, and the random flips and shifts, are pure
functions of (seed, epoch) and (seed, step), so a resumed run sees exactly the batches it would have seen.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training import cifar10, replicas, synthetic
from training.cli import UserError

IMAGE_SHAPE = cifar10.IMAGE_SHAPE  # temporary aliases
CLASSES = cifar10.CLASS_NAMES
MAX_SHIFT = 4  # pixels, in each direction
RECOMPUTED_IMAGES = 5000  # the first of training; statistics over more of them move no accuracy by more than noise
EVAL_BATCH_SIZE = 500  # images, outside of training: fits every machine
DEVICE_ARRAYS = "resident_arrays"  # graph collection of (placeholder, array)


class Split(NamedTuple):
    """images [N, H, W, C] uint8, labels [N] int64."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    train: Split
    test: Split
    source: str  # for the log: what and from where
    class_names: tuple  # of str; its length is the number of classes
    validation: Split | None = None  # held out of `train`, where that was asked for

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.train.images.shape[1:]

    @property
    def evaluated(self):
        """What classifiers are evaluated on: name to Split."""
        return {"test": self.test} | ({"validation": self.validation} if self.validation else {})


class DatasetSource(NamedTuple):
    """A data set that --dataset can name.

    load(data_dir, sizes, download) returns ({"train" and "test": (images, labels)}, the source for the log); `sizes`
    maps each split to the number of leading images needed or None, and `download=False` refuses missing data.
    """

    load: Callable
    class_names: tuple  # of str, by label
    image_shape: tuple  # (height, width, channels)


DATASETS = {  # the names also stand in training.labels.DATASETS
    "cifar10": DatasetSource(cifar10.load, cifar10.CLASS_NAMES, cifar10.IMAGE_SHAPE),
    "synthetic": DatasetSource(synthetic.load, synthetic.CLASS_NAMES, synthetic.IMAGE_SHAPE),
}


def class_names(name):  # a temporary alias
    return list(DATASETS[name].class_names)


def load(name, data_dir=None, train_size=None, test_size=None, download=True):
    """Loads the first `train_size` and `test_size` images of a data set in `DATASETS`.

    Raises:
      UserError: the data is missing, damaged, cannot be downloaded, or has fewer images than asked for.
    """
    dataset = _load_subset(name, data_dir, train_size, test_size, download)
    for split, size in (("train", train_size), ("test", test_size)):
        available = len(getattr(dataset, split).labels)
        if size and size > available:
            raise UserError(f"--{split}_size {size} is more than the {available} images there are: ask for fewer", 2)
    return dataset


def _load_subset(name, data_dir, train_size, test_size, download=True):
    """As `load`, but with fewer images where there are not so many."""
    sizes = {"train": train_size, "test": test_size}
    splits, source = DATASETS[name].load(data_dir, sizes, download)
    train, test = (Split(*(array[: sizes[split]] for array in splits[split])) for split in ("train", "test"))
    source = f"{source}, {len(train.labels)} training and {len(test.labels)} test images"
    return Dataset(train, test, source, DATASETS[name].class_names)


def load_for_training(flags):
    """The data of a run with these flags: loaded, the validation images held out, the labels left made noisy.

    Raises:
      UserError: as `load` and `hold_out`.
    """
    dataset = hold_out(load(flags.dataset, flags.data_dir, flags.train_size, flags.test_size), flags.validation_size)
    if not flags.label_noise:
        return dataset
    noisy = replace_labels(dataset.train.labels, flags.label_noise, flags.seed, len(dataset.class_names))
    source = f"{dataset.source}; {100 * flags.label_noise:g}% of the training labels are wrong"
    return dataset._replace(train=dataset.train._replace(labels=noisy), source=source)


def load_for_evaluation(flags):
    """As `load_for_training`, with no more training images than batch statistics are recomputed over."""
    if flags.validation_size:
        return load_for_training(flags)
    train_size = min(RECOMPUTED_IMAGES, flags.train_size or RECOMPUTED_IMAGES)
    return _load_subset(flags.dataset, flags.data_dir, train_size, flags.test_size)


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


def replace_labels(labels, share, seed, num_classes):
    """Symmetric label noise: round(share N) labels, each replaced by another class, all equally likely.

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
    others = (labels + random.integers(1, num_classes, len(labels))) % num_classes
    noisy = labels.copy()
    chosen = which[: round(share * len(labels))]
    noisy[chosen] = others[chosen]
    return noisy


# ---------------------------------------------------------------------------------------------------------------
# On the device


def put_on_device(array, name):
    """A local variable that holds `array` on the device, once its initializer ran with `device_feeds`.

    Local variables are in no checkpoint, and feeding keeps the array out of the graph definition.
    """
    placeholder = tf.placeholder(array.dtype, array.shape)
    tf.add_to_collection(DEVICE_ARRAYS, (placeholder, array))
    return tf.get_variable(name, initializer=placeholder, trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])


def device_feeds():
    """The feeds that tf.local_variables_initializer needs in the default graph: placeholder to array."""
    return dict(tf.get_collection(DEVICE_ARRAYS))


class Batches:
    """The training batches, gathered on the device: a pure function of (seed, step).

    Args:
      split: Split; its images and labels become resident.
      batch_size: Python int; the images that are left over at the end of an epoch's order are not used in it.
      seed: Python int.
      step: int64 variable, the number of steps done.
      augmented: whether the images are flipped and shifted at random.
    """

    def __init__(self, split, batch_size, seed, step, augmented=False):
        size = len(split.labels)
        self.batch_size, self.seed, self.augmented = batch_size, seed, augmented
        self.epoch_steps = size // batch_size
        self.images, self.labels = (
            put_on_device(split.images, "train_images"),
            put_on_device(split.labels, "train_labels"),
        )
        self.order = put_on_device(np.arange(size), "train_order")
        self.shuffle = self.order.assign(epoch_order(seed, step // self.epoch_steps, size)).op  # at each epoch's begin

    def local_batch(self, step):
        """The batch of a step; of several replicas, the part of the one that the graph is being built for."""
        return self.replica_batch(step, *replicas.this_replica())

    def replica_batch(self, step, replica, replicas):
        """A replica's part of the batch of a step: a pure function of (seed, step, replica).

        Args:
          step: int64 scalar.
          replica, replicas: Python ints; replica number `replica` of so many, a divisor of B.

        Returns:
          Images [B / replicas, H, W, C] float32, labels [B / replicas] int64, dropout's seed [2] int32.
        """
        first, size = step % self.epoch_steps * self.batch_size, self.batch_size // replicas
        if replicas > 1:
            first += replica * size
        indices = tf.slice(self.order, [first], [size])
        seed = tf.stack([tf.constant(self.seed, tf.int64), step])
        if replicas > 1:
            seed = tf2.random.experimental.stateless_fold_in(seed, replica, "philox")
        seeds = tf2.random.split(seed, 2, "philox")
        dropout_seed, augment_seed = tf.unstack(tf.cast(seeds, tf.int32))
        images = tf.gather(self.images, indices)
        if self.augmented:
            images = augment(images, augment_seed)
        return to_float(images), tf.gather(self.labels, indices), dropout_seed


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
      seed: integers [2]; the result is a pure function of (images, seed), compiled or not.
    """
    size, height, width = images.shape[:3]
    # Random bits of seeds below 2^32: floats, and seeds of 64 bits, come out differently where XLA compiles them.
    flips, downs, rights = tf.unstack(
        tf2.random.stateless_uniform([3, size, 1], tf.cast(seed, tf.int64) % 2**32, None, None, tf.int32, "philox")
    )
    flip = tf.equal(flips % 2, 1)
    rows = tf.range(height) + downs % (2 * MAX_SHIFT + 1) - MAX_SHIFT
    columns = tf.range(width) + rights % (2 * MAX_SHIFT + 1) - MAX_SHIFT
    columns = tf2.where(flip, width - 1 - columns, columns)
    images = tf.gather(images, _reflect(rows, height), axis=1, batch_dims=1)
    return tf.gather(images, _reflect(columns, width), axis=2, batch_dims=1)


def _reflect(index, size):
    return size - 1 - abs(size - 1 - abs(index))


def map_images(function, images, batch_size):
    """`function` over all images in batches, as one loop on the device; nothing is dropped.

    Args:
      function: [B, H, W, C] float32 in [-1, 1] to [B, K] float32.
      images: variable or tensor [N, H, W, C] uint8.
      batch_size: B, or less where there are fewer images.

    Returns:
      [N, K] float32; of several replicas each computes a part of it.
    """

    def rows(first, end):
        """Those of images `first` to `end` - 1."""
        size = min(batch_size, end - first)
        batches = math.ceil((end - first) / size)

        @tf.autograph.experimental.do_not_convert  # nothing to convert, in half a second
        def batch(index):
            # The last batch repeats the last image instead of being short: shapes stay static, the surplus is cut off.
            numbers = index * size + tf.range(first, first + size, dtype=tf.int64)
            return function(to_float(tf.gather(images, tf.minimum(numbers, end - 1))))

        numbers = tf.range(batches, dtype=tf.int64)
        results = tf.map_fn(batch, numbers, fn_output_signature=tf.float32, parallel_iterations=1)
        return tf.reshape(results, [batches * size, -1])[: end - first]

    return replicas.sharded(rows, int(images.shape[0]))


def first_images(images, batch_size):
    """The first RECOMPUTED_IMAGES in batches of nearly `batch_size`, all of one size; fewer than one may be left over.

    Args:
      images: variable or tensor [N, H, W, C] uint8.

    Returns:
      (function from the index of a batch, int64 scalar, to images [B, H, W, C] float32 in [-1, 1]; their number).
    """
    size = min(RECOMPUTED_IMAGES, images.shape[0])
    batches = math.ceil(size / batch_size)
    batch_size = size // batches

    def batch(index):
        chosen = images[index * batch_size : (index + 1) * batch_size]
        return to_float(tf.ensure_shape(chosen, [batch_size, *images.shape[1:]]))

    return batch, batches
