"""The data sets, and batches made on the device.

The images stay on the device as uint8. The order of an epoch and the random flips and shifts are pure functions of
(seed, epoch) and (seed, step), so a resumed run sees exactly the batches of an uninterrupted run.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training import cifar10, replicas, synthetic
from training.cli import UserError

MAX_SHIFT = 4  # pixels, in each direction
RECOMPUTED_IMAGES = 5000  # used to recompute batch statistics; more images make no measurable difference
EVAL_BATCH_SIZE = 500  # images; small enough for every machine
DEVICE_ARRAYS = "device_arrays"  # graph collection of (placeholder, array)


class Split(NamedTuple):
    """images [N, H, W, C] uint8, labels [N] int64."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    train: Split
    test: Split
    source: str  # for the log
    class_names: tuple  # of str, by label
    validation: Split | None = None

    @property
    def image_shape(self):
        """(height, width, channels)."""
        return self.train.images.shape[1:]

    @property
    def evaluated(self):
        """Returns {name: Split} for the splits to evaluate classifiers on."""
        return {"test": self.test} | ({"validation": self.validation} if self.validation else {})


class DatasetSource(NamedTuple):
    """A choice of --dataset.

    load(data_dir, sizes, download) returns ({"train" and "test": (images, labels)}, the source for the log). `sizes`
    maps each split to the number of leading images needed (or None), and download=False refuses missing data.
    """

    load: Callable
    class_names: tuple  # of str, by label
    image_shape: tuple  # (height, width, channels)


DATASETS = {  # add the name to training.labels.DATASETS too
    "cifar10": DatasetSource(cifar10.load, cifar10.CLASS_NAMES, cifar10.IMAGE_SHAPE),
    "synthetic": DatasetSource(synthetic.load, synthetic.CLASS_NAMES, synthetic.IMAGE_SHAPE),
}


def load(name, data_dir=None, train_size=None, test_size=None, download=True):
    """Loads the first `train_size` and `test_size` images of a data set, by default all; returns a Dataset.

    Raises:
      UserError: the data is missing, corrupt, cannot be downloaded, or has too few images.
    """
    dataset = _load_subset(name, data_dir, train_size, test_size, download)
    for split, size in (("train", train_size), ("test", test_size)):
        available = len(getattr(dataset, split).labels)
        if size and size > available:
            raise UserError(f"--{split}_size {size}: only {available} images available", 2)
    return dataset


def _load_subset(name, data_dir, train_size, test_size, download=True):
    """Like `load`, but returns fewer images if a split is smaller."""
    splits, source = DATASETS[name].load(data_dir, {"train": train_size, "test": test_size}, download)
    train = Split(*(array[:train_size] for array in splits["train"]))
    test = Split(*(array[:test_size] for array in splits["test"]))
    source = f"{source}, {len(train.labels)} training and {len(test.labels)} test images"
    return Dataset(train, test, source, DATASETS[name].class_names)


def load_for_training(flags):
    """Returns the Dataset of a run, with validation images and label noise; raises UserError like `load`."""
    dataset = hold_out(load(flags.dataset, flags.data_dir, flags.train_size, flags.test_size), flags.validation_size)
    if flags.label_noise:
        labels = replace_labels(dataset.train.labels, flags.label_noise, flags.seed, len(dataset.class_names))
        source = f"{dataset.source}; {100 * flags.label_noise:g}% of the training labels are wrong"
        dataset = dataset._replace(train=dataset.train._replace(labels=labels), source=source)
    return dataset


def load_for_evaluation(flags):
    """Like `load_for_training`, but loads only the training images needed to recompute batch statistics."""
    if flags.validation_size:
        return load_for_training(flags)
    train_size = min(RECOMPUTED_IMAGES, flags.train_size or RECOMPUTED_IMAGES)
    return _load_subset(flags.dataset, flags.data_dir, train_size, flags.test_size)


def hold_out(dataset, size):
    """Moves the last `size` training images to `validation`; UserError if no training image would be left."""
    if not size:
        return dataset
    rest = len(dataset.train.labels) - size
    if rest < 1:
        raise UserError(f"--validation_size {size}: only {rest + size} training images available", 2)
    train = Split(*(array[:rest] for array in dataset.train))
    validation = Split(*(array[rest:] for array in dataset.train))
    source = f"{dataset.source}; the last {size} training images are held out for validation"
    return dataset._replace(train=train, validation=validation, source=source)


def replace_labels(labels, share, seed, num_classes):
    """Adds symmetric label noise to labels [N] int64: replaces round(share N) of them by other, equally likely classes.

    A pure function of its arguments. A larger share replaces the labels of a smaller share and more.
    """
    random = np.random.default_rng([seed, 11])
    order = random.permutation(len(labels))
    wrong = (labels + random.integers(1, num_classes, len(labels))) % num_classes
    replaced = order[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[replaced] = wrong[replaced]
    return noisy


def put_on_device(array, name):
    """Returns a local variable for `array`, which checkpoints leave out; its initializer needs `device_feeds`."""
    placeholder = tf.placeholder(array.dtype, array.shape)
    tf.add_to_collection(DEVICE_ARRAYS, (placeholder, array))
    return tf.get_variable(name, initializer=placeholder, trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])


def device_feeds():
    """Returns the feeds for tf.local_variables_initializer in the default graph: placeholder to array."""
    return dict(tf.get_collection(DEVICE_ARRAYS))


class Batches:
    """The training batches, gathered on the device: a pure function of (seed, step).

    Args:
      split: Split to put on the device.
      batch_size: Python int B; each epoch leaves out the last size % B images of its order.
      seed: Python int.
      step: int64 variable, the number of steps done.
      augmented: flip and shift the images at random.
    """

    def __init__(self, split, batch_size, seed, step, augmented=False):
        self.batch_size, self.seed, self.augmented = batch_size, seed, augmented
        size = len(split.labels)
        self.epoch_steps = size // batch_size
        self.images = put_on_device(split.images, "train_images")
        self.labels = put_on_device(split.labels, "train_labels")
        self.order = put_on_device(np.arange(size), "train_order")
        self.shuffle = self.order.assign(epoch_order(seed, step // self.epoch_steps, size)).op  # run it in each epoch

    def local_batch(self, step):
        """Returns the batch of a step, or the slice of the replica for which the graph is being built."""
        return self.replica_batch(step, *replicas.this_replica())

    def replica_batch(self, step, replica, replicas):
        """Returns images [B / R, H, W, C] float32, labels [B / R] int64 and the seed of dropout [2] int32.

        A pure function of (seed, step, replica). `step` is an int64 scalar; the number of replicas R divides B.
        """
        size = self.batch_size // replicas
        first = step % self.epoch_steps * self.batch_size
        seed = tf.stack([tf.constant(self.seed, tf.int64), step])
        if replicas > 1:
            first += replica * size
            seed = tf2.random.experimental.stateless_fold_in(seed, replica, "philox")
        dropout_seed, augment_seed = tf.unstack(tf.cast(tf2.random.split(seed, 2, "philox"), tf.int32))
        indices = tf.slice(self.order, [first], [size])
        images = tf.gather(self.images, indices)
        if self.augmented:
            images = augment(images, augment_seed)
        return to_float(images), tf.gather(self.labels, indices), dropout_seed


def epoch_order(seed, epoch, size):
    """Returns the order of an epoch (integer scalar), a permutation [size] int64: a pure function of (seed, epoch)."""
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(epoch, tf.int64)])
    # Sorting random keys compiles everywhere; stateless_shuffle has no XLA kernel.
    keys = tf2.random.stateless_uniform([size], key, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    return tf.cast(tf.argsort(keys, stable=True), tf.int64)


def to_float(images):
    """Converts uint8 pixels to float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1


def augment(images, seed):
    """Flips each image left to right with probability 1/2 and shifts it by up to MAX_SHIFT pixels, edges reflected.

    A pure function of images [N, H, W, C] and seed (integers [2]), with and without XLA.
    """
    size, height, width = images.shape[:3]
    # Random bits from seeds below 2^32, because XLA draws other floats and reads 64-bit seeds differently.
    bits = tf2.random.stateless_uniform([3, size, 1], tf.cast(seed, tf.int64) % 2**32, None, None, tf.int32, "philox")
    flips, downs, rights = tf.unstack(bits)
    rows = tf.range(height) + downs % (2 * MAX_SHIFT + 1) - MAX_SHIFT
    columns = tf.range(width) + rights % (2 * MAX_SHIFT + 1) - MAX_SHIFT
    columns = tf2.where(tf.equal(flips % 2, 1), width - 1 - columns, columns)
    images = tf.gather(images, _reflect(rows, height), axis=1, batch_dims=1)
    return tf.gather(images, _reflect(columns, width), axis=2, batch_dims=1)


def _reflect(index, size):
    return size - 1 - abs(size - 1 - abs(index))


def map_images(function, images, batch_size):
    """Applies `function` to images [N, H, W, C] uint8 as one loop on the device; returns [N, K] float32.

    `function` maps [B, H, W, C] float32 in [-1, 1], with B at most `batch_size`, to [B, K] float32.
    With several replicas, each computes a part of the rows.
    """

    def rows(start, end):
        size = min(batch_size, end - start)
        batches = math.ceil((end - start) / size)

        @tf.autograph.experimental.do_not_convert  # saves half a second
        def batch(index):
            # The last batch repeats the last image, so that all shapes are static; surplus rows are cut off below.
            numbers = index * size + tf.range(start, start + size, dtype=tf.int64)
            return function(to_float(tf.gather(images, tf.minimum(numbers, end - 1))))

        numbers = tf.range(batches, dtype=tf.int64)
        results = tf.map_fn(batch, numbers, fn_output_signature=tf.float32, parallel_iterations=1)
        return tf.reshape(results, [batches * size, -1])[: end - start]

    return replicas.sharded(rows, int(images.shape[0]))


def first_images(images, batch_size):
    """Splits the first RECOMPUTED_IMAGES of images [N, H, W, C] uint8 into equal batches of at most `batch_size`.

    Returns a function from the index of a batch (int64 scalar) to [B, H, W, C] float32 in [-1, 1], and their number.
    """
    size = min(RECOMPUTED_IMAGES, images.shape[0])
    batches = math.ceil(size / batch_size)
    batch_size = size // batches

    def batch(index):
        chosen = images[index * batch_size : (index + 1) * batch_size]
        return to_float(tf.ensure_shape(chosen, [batch_size, *images.shape[1:]]))

    return batch, batches
