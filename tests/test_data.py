"""The data of a run: the synthetic stand-in, images held out, wrong labels; and batches made on the device."""

import functools

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import TINY_RUN
from support.tiny import split

import data
from training import flags, synthetic
from training.cli import UserError

sizes = st.integers(1, 2000)
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


# ---------------------------------------------------------------------------------------------------------------
# The synthetic set


@pytest.fixture(scope="module")
def drawn():
    return split(4096, seed=1), split(1024, seed=2)


def nearest_mean_accuracy(train, test, feature):
    """Test accuracy of the class whose mean training feature is nearest: a linear classifier of the feature."""
    train_features, test_features = (feature(each.images / 255).reshape(len(each.labels), -1) for each in (train, test))
    means = np.stack([train_features[train.labels == label].mean(0) for label in range(10)])
    distances = (means**2).sum(1) - 2 * test_features @ means.T
    return (distances.argmin(1) == test.labels).mean()


def test_synthetic_has_the_form_of_cifar10():
    dataset = data.load("synthetic")
    for images, size in ((dataset.train, synthetic.SIZES["train"]), (dataset.test, synthetic.SIZES["test"])):
        assert (images.images.shape, images.images.dtype) == ((size, 32, 32, 3), np.uint8)
        assert (images.labels.shape, images.labels.dtype) == ((size,), np.int64)


def test_synthetic_takes_the_first_images():
    whole, part = data.load("synthetic"), data.load("synthetic", train_size=100, test_size=50)
    for all_of_it, first in ((whole.train, part.train), (whole.test, part.test)):
        size = len(first.labels)
        np.testing.assert_array_equal(first.images, all_of_it.images[:size])
        np.testing.assert_array_equal(first.labels, all_of_it.labels[:size])


@pytest.mark.parametrize("sizes", [{"train_size": 8193}, {"test_size": 2049}])
def test_synthetic_size_is_limited(sizes):
    with pytest.raises(UserError, match=f"--{next(iter(sizes))}") as caught:
        data.load("synthetic", **sizes)
    assert caught.value.status == 2


def test_synthetic_is_balanced(drawn):
    for each in drawn:
        share = np.bincount(each.labels, minlength=10) / len(each.labels)
        assert 0.07 < share.min() <= share.max() < 0.13


def test_synthetic_is_not_separable_by_class_means_of_pixels(drawn):
    assert nearest_mean_accuracy(*drawn, lambda images: images) < 0.25


def test_synthetic_can_be_learnt_from_a_shift_invariant_feature(drawn):
    spectrum = nearest_mean_accuracy(*drawn, lambda images: np.abs(np.fft.fft2(images, axes=(1, 2)))[:, :5, :5])
    assert spectrum > 0.4


def test_synthetic_test_images_are_not_training_images(drawn):
    train, test = ({image.tobytes() for image in each.images} for each in drawn)
    assert len(train) == 4096
    assert not train & test


# ---------------------------------------------------------------------------------------------------------------
# What shapes an experiment


def test_the_last_training_images_are_held_out():
    ten = split(10, seed=1)
    dataset = data.hold_out(data.Dataset(ten, ten, "drawn"), 3)
    np.testing.assert_array_equal(dataset.train.images, ten.images[:7])
    np.testing.assert_array_equal(dataset.validation.images, ten.images[7:])
    np.testing.assert_array_equal(dataset.validation.labels, ten.labels[7:])
    np.testing.assert_array_equal(dataset.test.images, ten.images)
    assert data.hold_out(dataset, 0) is dataset
    with pytest.raises(UserError, match="--validation_size 10"):
        data.hold_out(data.Dataset(ten, ten, "drawn"), 10)


def test_label_noise_replaces_a_share_of_the_labels_by_other_classes():
    labels = np.random.default_rng(5).integers(0, 10, 20_000)
    noisy = data.replace_labels(labels, 0.4, seed=3)
    wrong = noisy != labels
    assert wrong.sum() == 8000
    counts = np.bincount((noisy[wrong] - labels[wrong]) % 10, minlength=10)
    assert counts[0] == 0
    assert (abs(counts[1:] - 8000 / 9) < 5 * np.sqrt(8000 / 9)).all()
    np.testing.assert_array_equal(noisy, data.replace_labels(labels, 0.4, seed=3))
    assert (noisy != data.replace_labels(labels, 0.4, seed=4)).any()
    fewer = data.replace_labels(labels, 0.1, seed=3)
    np.testing.assert_array_equal(fewer[fewer != labels], noisy[fewer != labels])
    np.testing.assert_array_equal(data.replace_labels(labels, 0.0, seed=3), labels)
    assert (data.replace_labels(labels, 1.0, seed=3) != labels).all()


def test_label_noise_touches_the_training_labels_alone():
    argv = [*TINY_RUN, "--validation_size", "64", "--seed", "4"]
    clean = data.load_for_training(flags.parse(argv))
    noisy = data.load_for_training(flags.parse([*argv, "--label_noise", "0.25"]))
    assert (noisy.train.labels != clean.train.labels).sum() == 48
    np.testing.assert_array_equal(noisy.train.images, clean.train.images)
    np.testing.assert_array_equal(noisy.validation.labels, clean.validation.labels)
    np.testing.assert_array_equal(noisy.test.labels, clean.test.labels)


def test_no_more_is_loaded_to_evaluate_than_is_needed():
    """The images of recomputed statistics and of the test set, and those held out are those of training."""
    argv = [*TINY_RUN, "--train_size", "6000"]
    trained, evaluated = (load(flags.parse(argv)) for load in (data.load_for_training, data.load_for_evaluation))
    assert (len(trained.train.labels), len(evaluated.train.labels)) == (6000, data.RECOMPUTED_IMAGES)
    np.testing.assert_array_equal(evaluated.train.images, trained.train.images[: data.RECOMPUTED_IMAGES])
    np.testing.assert_array_equal(evaluated.test.images, trained.test.images)
    assert evaluated.validation is None
    trained, evaluated = (
        load(flags.parse([*argv, "--validation_size", "50"]))
        for load in (data.load_for_training, data.load_for_evaluation)
    )
    np.testing.assert_array_equal(evaluated.validation.images, trained.validation.images)
    np.testing.assert_array_equal(evaluated.train.images[:5000], trained.train.images[:5000])


# ---------------------------------------------------------------------------------------------------------------
# Batches on the device


def test_to_float_maps_bytes_to_minus_one_to_one(session):
    pixels = np.arange(256, dtype=np.uint8)
    value = session.run(data.to_float(tf.constant(pixels)))
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, pixels / 127.5 - 1, atol=1e-6)
    assert (value[0], value[-1]) == (-1, 1)


def test_resident_array_is_on_the_device_but_in_no_checkpoint_and_not_in_the_graph(session, initialised, random):
    array = random.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    variable = data.put_on_device(array, "images")
    assert tf.global_variables() == []
    assert tf.trainable_variables() == []
    assert tf.get_default_graph().as_graph_def().ByteSize() < array.nbytes / 10
    np.testing.assert_array_equal(initialised(data.device_feeds()).run(variable), array)


@pytest.fixture(scope="module")
def order():
    """epoch_order with numbers for arguments, all in one graph."""
    with tf.Graph().as_default(), tf.Session() as session:
        epoch_number = tf.placeholder(tf.int64, [])
        build = functools.cache(lambda seed, size: data.epoch_order(seed, epoch_number, size))

        def order(seed, epoch, size):
            return session.run(build(seed, size), {epoch_number: epoch})

        yield order


@few
@given(seed=seeds, epoch=st.integers(0, 10**6), size=sizes)
def test_epoch_visits_every_image_once(order, seed, epoch, size):
    visited = order(seed, epoch, size)
    assert visited.dtype == np.int64
    np.testing.assert_array_equal(np.sort(visited), np.arange(size))


@few
@given(seed=seeds, epoch=st.integers(0, 10**6), size=st.integers(50, 2000))
def test_epoch_order_is_a_pure_function_of_seed_and_epoch(order, seed, epoch, size):
    first = order(seed, epoch, size)
    np.testing.assert_array_equal(first, order(seed, epoch, size))
    assert not np.array_equal(first, order(seed, epoch + 1, size))
    assert not np.array_equal(first, order(seed + 1, epoch, size))


def test_epoch_order_is_uniform(order):
    """Where image 0 comes, over 600 epochs: each fifth of the epoch about equally often."""
    places = [int(np.argmin(order(0, epoch, 5))) for epoch in range(600)]
    assert np.bincount(places, minlength=5).min() > 80  # 120 expected, standard deviation 10


def augmentations(image):
    """Every flip and shift of the image, by NumPy: {bytes: (flipped, rows, columns)}."""
    height, width, _ = image.shape
    found = {}
    for flipped in (False, True):
        padded = np.pad(image[:, ::-1] if flipped else image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        for row in range(9):
            for column in range(9):
                found[padded[row : row + height, column : column + width].tobytes()] = flipped, row - 4, column - 4
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augment_flips_and_shifts_with_reflected_edges(session, random, dtype):
    images = random.integers(0, 256, (400, 10, 12, 3)).astype(dtype)
    augmented = session.run(data.augment(tf.constant(images), tf.constant([5, 6])))
    assert augmented.dtype == dtype
    kinds = [augmentations(before)[after.tobytes()] for before, after in zip(images, augmented, strict=True)]
    flipped, rows, columns = map(np.array, zip(*kinds, strict=True))
    assert 0.4 < flipped.mean() < 0.6
    for shifts in (rows, columns):
        assert sorted(set(shifts)) == list(range(-4, 5))
        assert np.bincount(shifts + 4).min() > 20  # 44 expected
    assert abs(np.corrcoef([flipped, rows, columns]) - np.eye(3)).max() < 0.2  # drawn independently


def test_augment_is_a_pure_function_of_its_seed(session, random):
    images = tf.constant(random.integers(0, 256, (16, 32, 32, 3), dtype=np.uint8))
    seed = tf.placeholder(tf.int32, [2])
    augmented = data.augment(images, seed)
    first, again, other = (session.run(augmented, {seed: value}) for value in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 1), (1, 4), (5, 2), (6, 3), (7, 10), (12, 12), (12, 5), (11, 4)], ids=str
)
def test_map_images_reaches_every_image_once_in_order(session, random, count, batch_size):
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
def test_the_first_images_come_in_batches_of_one_size(session, random, count, batch_size, sizes):
    images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    batch, batches = data.first_images(tf.constant(images), batch_size)
    found = [session.run(batch(tf.constant(index, tf.int64))) for index in range(batches)]
    assert [len(each) for each in found] == sizes
    np.testing.assert_allclose(np.concatenate(found), images[: sum(sizes)] / 127.5 - 1, atol=1e-6)
