"""Data: the data sets, validation images, label noise, and batches on the device."""

import functools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import TINY_RUN
from support.tiny import split

import data
from training import flags
from training.cli import UserError

sizes = st.integers(1, 2000)
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def drawn():
    return split(4096, seed=1), split(1024, seed=2)


def nearest_mean_accuracy(train, test, feature):
    """Returns the test accuracy of a linear classifier: the class with the nearest mean training feature."""
    train_features, test_features = (feature(s.images / 255).reshape(len(s.labels), -1) for s in (train, test))
    means = np.stack([train_features[train.labels == label].mean(0) for label in range(10)])
    distances = (means**2).sum(1) - 2 * test_features @ means.T
    return (distances.argmin(1) == test.labels).mean()


def test_synthetic_matches_its_description():
    description, whole = data.DATASETS["synthetic"], data.load("synthetic")
    assert whole.class_names == description.class_names
    part = data.load("synthetic", train_size=100, test_size=50)
    for images, first, size in ((whole.train, part.train, 100), (whole.test, part.test, 50)):
        assert (images.images.shape[1:], images.images.dtype) == (description.image_shape, np.uint8)
        assert (images.labels.shape, images.labels.dtype) == ((len(images.images),), np.int64)
        share = np.bincount(images.labels) / len(images.labels)
        assert len(share) == 10 and 0.07 < share.min() <= share.max() < 0.13
        np.testing.assert_array_equal(first.images, images.images[:size])
        np.testing.assert_array_equal(first.labels, images.labels[:size])


def test_load_refuses_missing_images():
    for sizes in ({"train_size": 8193}, {"test_size": 2049}):
        with pytest.raises(UserError, match=f"--{next(iter(sizes))}"):
            data.load("synthetic", **sizes)


def test_new_dataset_needs_only_a_loader(monkeypatch):
    def load(data_dir, sizes, download):
        labels = {split: np.arange(1000) % 7 for split in sizes}  # more images than necessary
        return {split: (np.zeros([1000, 24, 24, 1], np.uint8), labels[split]) for split in sizes}, "seven"

    monkeypatch.setitem(data.DATASETS, "seven", data.DatasetSource(load, tuple("abcdefg"), (24, 24, 1)))
    parsed = flags.parse([*TINY_RUN, "--train_size", "700", "--label_noise", "0.5"])
    parsed.dataset = "seven"
    dataset = data.load_for_training(parsed)
    assert (dataset.image_shape, dataset.class_names) == ((24, 24, 1), tuple("abcdefg"))
    assert (len(dataset.train.images), len(dataset.test.labels)) == (700, 64)
    assert (dataset.train.labels != np.arange(700) % 7).sum() == 350
    assert set(dataset.train.labels) == set(range(7))


def test_synthetic_is_learnable_but_not_easy(drawn):
    assert nearest_mean_accuracy(*drawn, lambda images: images) < 0.25
    spectrum = nearest_mean_accuracy(*drawn, lambda images: np.abs(np.fft.fft2(images, axes=(1, 2)))[:, :5, :5])
    assert spectrum > 0.4


def test_synthetic_splits_are_disjoint(drawn):
    train, test = ({image.tobytes() for image in part.images} for part in drawn)
    assert len(train) == 4096
    assert not train & test


def test_last_images_are_held_out():
    ten = split(10, seed=1)
    whole = data.Dataset(ten, ten, "drawn", ("a", "b"))
    dataset = data.hold_out(whole, 3)
    np.testing.assert_array_equal(dataset.train.images, ten.images[:7])
    np.testing.assert_array_equal(dataset.validation.images, ten.images[7:])
    np.testing.assert_array_equal(dataset.validation.labels, ten.labels[7:])
    np.testing.assert_array_equal(dataset.test.images, ten.images)
    assert data.hold_out(whole, 0) is whole


@pytest.mark.parametrize("classes", [10, 7])
def test_label_noise_is_symmetric(classes):
    labels = np.random.default_rng(5).integers(0, classes, 20_000)

    def noisy_labels(share, seed=3):
        return data.replace_labels(labels, share, seed, classes)

    noisy, fewer, others = noisy_labels(0.4), noisy_labels(0.1), classes - 1
    wrong = noisy != labels
    assert wrong.sum() == 8000
    counts = np.bincount((noisy[wrong] - labels[wrong]) % classes, minlength=classes)
    assert counts[0] == 0
    assert (abs(counts[1:] - 8000 / others) < 5 * np.sqrt(8000 / others)).all()
    np.testing.assert_array_equal(noisy, noisy_labels(0.4))
    assert (noisy != noisy_labels(0.4, seed=4)).any()
    np.testing.assert_array_equal(fewer[fewer != labels], noisy[fewer != labels])
    np.testing.assert_array_equal(noisy_labels(0.0), labels)
    assert (noisy_labels(1.0) != labels).all()


def test_only_training_labels_are_noisy():
    argv = [*TINY_RUN, "--validation_size", "64", "--seed", "4"]
    clean = data.load_for_training(flags.parse(argv))
    noisy = data.load_for_training(flags.parse([*argv, "--label_noise", "0.25"]))
    assert (noisy.train.labels != clean.train.labels).sum() == 48
    np.testing.assert_array_equal(noisy.train.images, clean.train.images)
    np.testing.assert_array_equal(noisy.validation.labels, clean.validation.labels)
    np.testing.assert_array_equal(noisy.test.labels, clean.test.labels)


@pytest.mark.parametrize("held_out", ["0", "50"])
def test_evaluation_loads_few_training_images(held_out):
    parsed = flags.parse([*TINY_RUN, "--train_size", "6000", "--validation_size", held_out])
    trained, evaluated = data.load_for_training(parsed), data.load_for_evaluation(parsed)
    first = data.RECOMPUTED_IMAGES
    np.testing.assert_array_equal(evaluated.train.images[:first], trained.train.images[:first])
    np.testing.assert_array_equal(evaluated.test.images, trained.test.images)
    if held_out == "0":
        assert (len(trained.train.labels), len(evaluated.train.labels), evaluated.validation) == (6000, first, None)
    else:
        np.testing.assert_array_equal(evaluated.validation.images, trained.validation.images)


def test_to_float_range(session):
    pixels = np.arange(256, dtype=np.uint8)
    value = session.run(data.to_float(tf.constant(pixels)))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, pixels / 127.5 - 1, atol=1e-6)
    assert (value[0], value[-1]) == (-1, 1)


def test_device_array_is_not_saved(session, initialised, random):
    array = random.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    variable = data.put_on_device(array, "images")
    assert tf.global_variables() == []
    assert tf.trainable_variables() == []
    assert tf.get_default_graph().as_graph_def().ByteSize() < array.nbytes / 10
    np.testing.assert_array_equal(initialised(data.device_feeds()).run(variable), array)


@pytest.fixture(scope="module")
def order():
    """data.epoch_order for numbers, in one graph."""
    with tf.Graph().as_default(), tf.Session() as session:
        epoch_number = tf.placeholder(tf.int64, [])
        build = functools.cache(lambda seed, size: data.epoch_order(seed, epoch_number, size))

        def order(seed, epoch, size):
            return session.run(build(seed, size), {epoch_number: epoch})

        yield order


@few
@given(seed=seeds, epoch=st.integers(0, 10**6), size=sizes)
def test_epoch_visits_every_image(order, seed, epoch, size):
    visited = order(seed, epoch, size)
    assert visited.dtype == np.int64
    np.testing.assert_array_equal(np.sort(visited), np.arange(size))


@few
@given(seed=seeds, epoch=st.integers(0, 10**6), size=st.integers(50, 2000))
def test_epoch_order_depends_on_seed_and_epoch(order, seed, epoch, size):
    first = order(seed, epoch, size)
    np.testing.assert_array_equal(first, order(seed, epoch, size))
    assert not np.array_equal(first, order(seed, epoch + 1, size))
    assert not np.array_equal(first, order(seed + 1, epoch, size))


def test_epoch_order_is_uniform(order):
    positions = [int(np.argmin(order(0, epoch, 5))) for epoch in range(600)]
    assert np.bincount(positions, minlength=5).min() > 80  # 120 expected, standard deviation 10


def augmentations(image):
    """Returns {bytes: (flipped, rows, columns)} of every flip and shift, by NumPy."""
    height, width, _ = image.shape
    variants = {}
    for flipped in (False, True):
        padded = np.pad(image[:, ::-1] if flipped else image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        for row in range(9):
            for column in range(9):
                variants[padded[row : row + height, column : column + width].tobytes()] = flipped, row - 4, column - 4
    return variants


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augment_flips_and_shifts(session, random, dtype):
    images = random.integers(0, 256, (400, 10, 12, 3)).astype(dtype)
    augmented = session.run(data.augment(tf.constant(images), tf.constant([5, 6])))
    assert augmented.dtype == dtype
    kinds = [augmentations(before)[after.tobytes()] for before, after in zip(images, augmented, strict=True)]
    flipped, rows, columns = map(np.array, zip(*kinds, strict=True))
    assert 0.4 < flipped.mean() < 0.6
    for shifts in (rows, columns):
        assert sorted(set(shifts)) == list(range(-4, 5))
        assert np.bincount(shifts + 4).min() > 20  # 44 expected
    assert abs(np.corrcoef([flipped, rows, columns]) - np.eye(3)).max() < 0.2  # independent


def test_augment_depends_on_seed(session, random):
    images = tf.constant(random.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8))
    seed = tf.placeholder(tf.int32, [2])
    augmented = data.augment(images, seed)
    first, again, other = (session.run(augmented, {seed: value}) for value in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 1), (1, 4), (5, 2), (6, 3), (7, 10), (12, 12), (12, 5), (11, 4)], ids=str
)
def test_map_images_keeps_order(session, random, count, batch_size):
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    batches = []

    def mean_colour(batch):
        batches.append(batch.shape.as_list())
        return tf.reduce_mean(batch, axis=[1, 2])

    means = session.run(data.map_images(mean_colour, tf.constant(images), batch_size))
    np.testing.assert_allclose(means, (images / 127.5 - 1).mean((1, 2)), atol=1e-5)
    assert means.shape == (count, 3)
    assert batches == [[min(batch_size, count), 32, 32, 3]]


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(12, 4, [4] * 3), (11, 4, [3] * 3), (5, 10, [5]), (12, 5, [4] * 3), (1, 1, [1]), (5100, 500, [500] * 10)],
    ids=str,
)
def test_first_images_have_equal_batches(session, random, count, batch_size, sizes):
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    batch, batches = data.first_images(tf.constant(images), batch_size)
    parts = [session.run(batch(tf.constant(index, tf.int64))) for index in range(batches)]
    assert [len(part) for part in parts] == sizes
    np.testing.assert_allclose(np.concatenate(parts), images[: sum(sizes)] / 127.5 - 1, atol=1e-6)
