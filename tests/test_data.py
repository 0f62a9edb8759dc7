"""CIFAR-10 from files written by hand, the synthetic stand-in, and what makes batches on the device."""

import functools
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from errors import UserError

REAL_CIFAR10 = Path(os.environ.get("TFDS_DATA_DIR", "")) / "cifar10"

sizes = st.integers(1, 2000)
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


def refused(directory, **arguments):
    """The sentence with which the directory is refused."""
    with pytest.raises(UserError) as caught:
        data.load("cifar10", directory, **arguments)
    assert caught.value.status == 1
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------
# CIFAR-10 in TFDS format


def test_cifar10_is_read_with_exact_pixels_and_labels_in_order(tiny_cifar10):
    dataset = data.load("cifar10", tiny_cifar10.directory)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        np.testing.assert_array_equal(split.images, tiny_cifar10.images[name])
        np.testing.assert_array_equal(split.labels, tiny_cifar10.labels[name])
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)


def test_source_names_directory_and_sizes(tiny_cifar10):
    source = data.load("cifar10", tiny_cifar10.directory, train_size=7).source
    assert str(tiny_cifar10.folder) in source
    assert "7 training and 10 test images" in source


def test_data_directory_defaults_to_the_environment(tiny_cifar10, run, tmp_path, monkeypatch):
    # TFDS reads the variable once, at its import: hence a process of its own.
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny_cifar10.directory))
    script = tmp_path / "source.py"
    script.write_text("import sys; sys.path.insert(0, '.'); import data; print(data.load('cifar10').source)")
    result = run(script)
    assert str(tiny_cifar10.folder) in result.stdout, result.stderr


def test_first_images_are_taken(tiny_cifar10):
    dataset = data.load("cifar10", tiny_cifar10.directory, train_size=6, test_size=10)
    np.testing.assert_array_equal(dataset.train.images, tiny_cifar10.images["train"][:6])
    np.testing.assert_array_equal(dataset.train.labels, tiny_cifar10.labels["train"][:6])
    assert len(dataset.test.labels) == 10


@pytest.mark.parametrize(("name", "sizes"), [("train", {"train_size": 21}), ("test", {"test_size": 11})])
def test_more_images_than_there_are_is_a_usage_error(tiny_cifar10, name, sizes):
    with pytest.raises(UserError, match=f"--{name}_size") as caught:
        data.load("cifar10", tiny_cifar10.directory, **sizes)
    assert caught.value.status == 2


@pytest.mark.parametrize("missing", ["dataset_info.json", "train", "test"])
def test_half_prepared_directory_is_refused(tiny_cifar10, missing):
    path = tiny_cifar10.folder / missing if missing.endswith("json") else tiny_cifar10.shard(missing)
    path.unlink()
    sentence = refused(tiny_cifar10.directory)
    assert path.name in sentence
    assert f"rm -r {tiny_cifar10.folder}" in sentence


def test_missing_directory_is_refused_and_not_made(tmp_path):
    sentence = refused(tmp_path / "nowhere")
    assert f"mkdir -p {tmp_path / 'nowhere'}" in sentence
    assert list(tmp_path.iterdir()) == []


def cut(shard):
    shard.write_bytes(shard.read_bytes()[:-100])


def drop_last_record(shard):
    records = list(tf.io.tf_record_iterator(str(shard)))
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records[:-1]:
            writer.write(record)


def flip_byte(shard):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def replace_label(shard):
    records = [tf.train.Example.FromString(record) for record in tf.io.tf_record_iterator(str(shard))]
    records[0].features.feature["label"].int64_list.value[0] = 10
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for record in records:
            writer.write(record.SerializeToString())


@pytest.mark.parametrize("damage", [cut, drop_last_record, flip_byte, replace_label])
@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_shard_is_refused(tiny_cifar10, damage, split):
    damage(tiny_cifar10.shard(split))
    sentence = refused(tiny_cifar10.directory)
    assert f"{tiny_cifar10.folder} is damaged" in sentence
    assert f"rm -r {tiny_cifar10.folder}" in sentence


@pytest.mark.parametrize("content", ["", "{}", '{"name": "cif'], ids=["empty", "no splits", "cut short"])
def test_damaged_metadata_is_refused(tiny_cifar10, content):
    (tiny_cifar10.folder / "dataset_info.json").write_text(content)
    assert f"rm -r {tiny_cifar10.directory / 'cifar10'}" in refused(tiny_cifar10.directory)


@pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ or not REAL_CIFAR10.is_dir(),
    reason="TFDS_DATA_DIR names no directory of CIFAR-10",
)
def test_real_cifar10_is_whole_and_balanced():
    dataset = data.load("cifar10", os.environ["TFDS_DATA_DIR"])
    for split, size in ((dataset.train, 50_000), (dataset.test, 10_000)):
        assert split.images.shape == (size, 32, 32, 3)
        assert np.bincount(split.labels).tolist() == [size // 10] * 10
    np.testing.assert_allclose(dataset.train.images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------
# No network


def assert_names_the_ways_out(sentence, directory):
    for part in (data.ARCHIVE_URL, str(directory), "make demo"):
        assert part in sentence
    assert "\n" not in sentence


def test_unreachable_network_is_told_with_the_ways_out(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    sentence = refused(tmp_path)
    assert "Name or service not known" in sentence
    assert_names_the_ways_out(sentence, tmp_path)


def test_network_that_never_answers_is_given_up(tmp_path, run):
    """Down to the end of the process, which must not wait for the answer either."""
    script = tmp_path / "hang.py"
    script.write_text(
        "import sys, time, urllib.request; sys.path.insert(0, '.'); import data, errors\n"
        "urllib.request.urlopen = lambda *_, **__: time.sleep(100)\n"
        "data.CONNECT_SECONDS = 0.2\n"
        f"errors.or_exit(data.load, 'cifar10', {str(tmp_path)!r})\n"
    )
    started = time.monotonic()
    result = run(script)
    assert time.monotonic() - started < 30
    sentence = result.stderr.splitlines()[-1]
    assert "no answer within 0.2 s" in sentence
    assert_names_the_ways_out(sentence, tmp_path)


def test_failed_download_leaves_a_directory_that_can_be_tried_again(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(*_, **__):
        raise ConnectionError("reset by peer\nand more")

    monkeypatch.setattr(data, "_check_reachable", lambda _: None)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", fail)
    for _ in range(2):  # a half-made directory of the first try would change the second sentence
        sentence = refused(tmp_path)
        assert "reset by peer" in sentence
        assert_names_the_ways_out(sentence, tmp_path)


def test_archive_fetched_by_hand_is_taken_without_asking_the_network(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    (tmp_path / data.ARCHIVE).write_bytes(b"not the real one")
    sentence = refused(tmp_path)
    assert "checksum is wrong" in sentence
    assert "asked the network" not in sentence


# ---------------------------------------------------------------------------------------------------------------
# The synthetic set


@pytest.fixture(scope="module")
def synthetic():
    return data.draw_synthetic(4096, seed=1), data.draw_synthetic(1024, seed=2)


def nearest_mean_accuracy(train, test, feature):
    """Test accuracy of the class whose mean training feature is nearest: a linear classifier of the feature."""
    train_features, test_features = (
        feature(split.images / 255).reshape(len(split.labels), -1) for split in (train, test)
    )
    means = np.stack([train_features[train.labels == label].mean(0) for label in range(10)])
    distances = (means**2).sum(1) - 2 * test_features @ means.T
    return (distances.argmin(1) == test.labels).mean()


def test_synthetic_has_the_form_of_cifar10():
    dataset = data.load("synthetic")
    for split, size in zip((dataset.train, dataset.test), data.SYNTHETIC_SIZES, strict=True):
        assert (split.images.shape, split.images.dtype) == ((size, 32, 32, 3), np.uint8)
        assert (split.labels.shape, split.labels.dtype) == ((size,), np.int64)


def test_synthetic_is_deterministic():
    for one, other in zip(data.load("synthetic").train, data.load("synthetic").train, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(data.draw_synthetic(8, seed=1).images, data.draw_synthetic(8, seed=2).images)


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


def test_synthetic_is_balanced(synthetic):
    for split in synthetic:
        share = np.bincount(split.labels, minlength=10) / len(split.labels)
        assert 0.07 < share.min() <= share.max() < 0.13


def test_synthetic_is_not_separable_by_class_means_of_pixels(synthetic):
    assert nearest_mean_accuracy(*synthetic, lambda images: images) < 0.25


def test_synthetic_can_be_learnt_from_a_shift_invariant_feature(synthetic):
    spectrum = nearest_mean_accuracy(*synthetic, lambda images: np.abs(np.fft.fft2(images, axes=(1, 2)))[:, :5, :5])
    assert spectrum > 0.4


def test_synthetic_test_images_are_not_training_images(synthetic):
    train, test = ({image.tobytes() for image in split.images} for split in synthetic)
    assert len(train) == 4096
    assert not train & test


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
    variable, feeds = data.resident(array, "images")
    assert tf.global_variables() == []
    assert tf.trainable_variables() == []
    assert tf.get_default_graph().as_graph_def().ByteSize() < array.nbytes / 10
    np.testing.assert_array_equal(initialised(feeds).run(variable), array)


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


def test_epoch_order_is_not_that_of_the_mirrored_seed(order):
    assert not np.array_equal(order(1, 2, 100), order(2, 1, 100))


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
    ("count", "batch_size"),
    [(1, 1), (1, 4), (5, 2), (6, 3), (7, 10), (12, 12), (12, 5), (11, 4)],
    ids=lambda value: str(value),
)
def test_map_images_reaches_exactly_the_first_images_in_order(session, random, count, batch_size):
    images = random.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    batches = []

    def mean_colour(batch):
        batches.append(batch.shape.as_list())
        return tf.reduce_mean(batch, axis=[1, 2])

    means = session.run(data.map_images(mean_colour, tf.constant(images), count, batch_size))
    np.testing.assert_allclose(means, (images[:count] / 127.5 - 1).mean((1, 2)), atol=1e-5)
    assert means.shape == (count, 3)
    assert batches == [[batch_size, 32, 32, 3]]
