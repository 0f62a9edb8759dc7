"""CIFAR-10 from files written by hand: exact pixels, or one sentence that names the command which repairs it."""

import os
import shlex
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from support.cifar10 import read_examples, spoil, write_examples
from support.commands import TINY_RUN, assert_ended_well, assert_one_sentence
from support.damage import delete, flip_bit, truncate
from support.files import contents

import data
from training import cifar10
from training.cli import UserError

NOISE = b"\x89PNG\r\n\x1a\n" + bytes(50)


def refused(directory):
    """The sentence with which the directory is refused."""
    with pytest.raises(UserError) as caught:
        data.load("cifar10", directory)
    assert caught.value.status == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------
# CIFAR-10 in TFDS format


def test_cifar10_is_read_with_exact_pixels_and_labels_in_order(tiny_cifar10):
    dataset = data.load("cifar10", tiny_cifar10.directory)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        np.testing.assert_array_equal(split.images, tiny_cifar10.images[name])
        np.testing.assert_array_equal(split.labels, tiny_cifar10.labels[name])
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    assert str(tiny_cifar10.folder) in dataset.source


def test_a_run_finds_its_data_by_the_environment_and_says_where_and_how_many(tiny_cifar10, forked, tmp_path):
    argv = [*TINY_RUN, *shlex.split("--dataset cifar10 --train_size 8 --test_size 10 --batch_size 4 --epochs 1")]
    environment = {"TFDS_DATA_DIR": str(tiny_cifar10.directory)}
    result = forked("train.py", *argv, "--run_dir", tmp_path / "run", environment=environment)
    assert_ended_well(result)
    assert str(tiny_cifar10.folder) in result.stdout
    assert "8 training and 10 test images" in result.stdout


def test_first_images_are_taken_and_no_more_decoded_than_that(tiny_cifar10):
    """The last record is not even an image."""
    spoil(tiny_cifar10.shard("train"), -1, "image", NOISE)
    for size in (6, 19):
        dataset = data.load("cifar10", tiny_cifar10.directory, train_size=size, test_size=5)
        np.testing.assert_array_equal(dataset.train.images, tiny_cifar10.images["train"][:size])
        np.testing.assert_array_equal(dataset.train.labels, tiny_cifar10.labels["train"][:size])
        assert len(dataset.test.labels) == 5
    assert "is damaged" in refused(tiny_cifar10.directory)


@pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ or not (Path(os.environ["TFDS_DATA_DIR"]) / "cifar10").is_dir(),
    reason="TFDS_DATA_DIR names no directory of CIFAR-10",
)
def test_real_cifar10():
    dataset = data.load("cifar10")
    for split, per_class in ((dataset.train, 5000), (dataset.test, 1000)):
        assert split.images.shape == (10 * per_class, 32, 32, 3)
        np.testing.assert_array_equal(np.bincount(split.labels, minlength=10), np.full(10, per_class))
    # Everybody's normalisation of CIFAR-10: the mean of each channel over the training images.
    np.testing.assert_allclose(dataset.train.images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------
# Damage


def drop_last_record(shard):
    write_examples(shard, read_examples(shard)[:-1])


@pytest.mark.parametrize("damage", [truncate, drop_last_record, flip_bit, delete])
@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_shard_is_refused(tiny_cifar10, damage, split):
    damage(tiny_cifar10.shard(split))
    sentence = refused(tiny_cifar10.directory)
    assert f"rm -r {tiny_cifar10.folder}" in sentence and "train.py" in sentence  # report.py prepares none


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("label", 10), ("label", -1), ("label", 2**40), ("label", b"cat"), ("image", NOISE), ("image", None)],
)
def test_record_that_is_not_cifar10_is_refused_with_the_command_that_repairs_it(tiny_cifar10, split, name, value):
    spoil(tiny_cifar10.shard(split), 0, name, value)
    sentence = refused(tiny_cifar10.directory)
    assert f"{tiny_cifar10.folder} is damaged" in sentence
    assert f"rm -r {tiny_cifar10.folder}" in sentence


@pytest.mark.parametrize("content", [None, "", "{}", '{"name": "cif'], ids=["none", "empty", "no splits", "cut short"])
def test_damaged_metadata_is_refused(tiny_cifar10, content):
    file = tiny_cifar10.folder / "dataset_info.json"
    file.unlink() if content is None else file.write_text(content)
    assert f"rm -r {tiny_cifar10.folder}" in refused(tiny_cifar10.directory)


def test_data_of_another_format_are_not_damaged(tiny_cifar10):
    file = tiny_cifar10.folder / "dataset_info.json"
    file.write_text(file.read_text().replace("tfrecord", "array_record"))
    sentence = refused(tiny_cifar10.directory)
    assert "array_record" in sentence and "--data_dir" in sentence and "rm -r" not in sentence


def test_a_default_directory_that_is_none_is_refused(monkeypatch, tiny_cifar10):
    monkeypatch.chdir(tiny_cifar10.folder)
    for named, said in (
        (".", f"--data_dir {tiny_cifar10.directory}"),
        ("..", f"--data_dir {tiny_cifar10.directory}"),
        ("/tmp/\udcff", "UTF-8"),
        ("gs://bucket/data", "gs://bucket/data"),
        (tiny_cifar10.folder.parent, f"--data_dir {tiny_cifar10.directory}"),
    ):
        monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(named))
        sentence = refused(None)
        assert said in sentence and "--data_dir" in sentence and "rm -r" not in sentence


# ---------------------------------------------------------------------------------------------------------------
# Data that are not there yet


def assert_download_fails(forked, directory, port, reason):
    """train.py, where a port of this machine is the network, says why it fails and the ways out, and leaves nothing."""
    environment = dict.fromkeys(("http_proxy", "https_proxy"), f"http://127.0.0.1:{port}")
    result = forked("train.py", "--data_dir", directory, "--run_dir", directory / "run", environment=environment)
    assert_one_sentence(result, 1, reason, cifar10.ARCHIVE_URL, directory, "train.py --dataset synthetic")
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("proxy", ["http://proxy:port", "http://[::1", "http://"])
def test_a_proxy_that_is_no_address_is_one_sentence_at_once(forked, tmp_path, proxy):
    environment = dict.fromkeys(("http_proxy", "https_proxy"), proxy)
    result = forked("train.py", "--data_dir", tmp_path, "--run_dir", tmp_path / "run", environment=environment)
    assert_one_sentence(result, 1, "could not be downloaded", "train.py --dataset synthetic")
    assert "no answer" not in result.stderr


@pytest.mark.parametrize(("named", "taken"), [("new/tfds", "new/tfds"), ("", "home/tensorflow_datasets")])
def test_a_default_directory_that_is_not_there_yet_is_made(forked, tmp_path, named, taken):
    environment = {"TFDS_DATA_DIR": named and str(tmp_path / named), "HOME": str(tmp_path / "home")}
    result = forked("train.py", "--run_dir", tmp_path / "run", environment=environment)
    assert_one_sentence(result, 1, "could not be downloaded", f"mkdir -p {tmp_path / taken}")


def test_unreachable_network_is_one_sentence_with_the_ways_out(forked, tmp_path):
    assert_download_fails(forked, tmp_path, 9, "Connection refused")  # nothing listens there


@pytest.mark.slow
def test_network_that_never_answers_is_given_up(forked, tmp_path):
    """Down to the end of the process, which must not wait for the answer either."""
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert_download_fails(forked, tmp_path, server.getsockname()[1], f"within {cifar10.CONNECT_SECONDS} s")
    assert time.monotonic() - started < cifar10.CONNECT_SECONDS + 30


@pytest.mark.parametrize("name", ["incomplete.A1B2C3_3.0.2", "3.0.1"])
def test_what_a_preparation_that_was_killed_left_is_not_taken_for_the_data(tiny_cifar10, name):
    """TFDS prepares beside the place and renames; an archive is there, so that the network is not needed."""
    (tiny_cifar10.directory / cifar10.ARCHIVE).write_bytes(b"not the real one")
    tiny_cifar10.folder.rename(tiny_cifar10.folder.with_name(name))
    assert "checksum" in refused(tiny_cifar10.directory)


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("place", ["downloads", "cifar10", "cifar10/3.0.2"])
def test_what_stands_in_the_place_of_a_directory_of_the_data_is_named(tmp_path, place, linked):
    """And not overwritten; or a link to a disk that is not there. An archive is, so that the network is not needed."""
    (tmp_path / cifar10.ARCHIVE).write_bytes(b"not the real one")
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("/nowhere") if linked else path.write_text("kept")
    sentence = refused(tmp_path)
    assert f"rm {path}" in sentence and "fetch" not in sentence
    assert linked or path.read_text() == "kept"
    path.unlink()
    assert "checksum" in refused(tmp_path)


def test_archive_that_is_not_the_published_one_is_refused_before_it_is_unpacked(tmp_path):
    """It holds what climbs out of its directory, and links that point out of it. The network is not asked."""
    root = tmp_path / "deep" / "tfds"
    root.mkdir(parents=True)
    with tarfile.open(root / cifar10.ARCHIVE, "w:gz") as archive:
        (root / "payload").write_text("evil")
        for name in ("../../escaped", "/tmp/escaped-from-an-archive", "cifar-10-batches-bin/test_batch.bin"):
            archive.add(root / "payload", name)
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = contents(tmp_path)
    sentence = refused(root)
    assert f"rm {root / cifar10.ARCHIVE}" in sentence
    assert cifar10.ARCHIVE_URL in sentence
    assert contents(tmp_path) == before
    assert not os.path.exists("/tmp/escaped-from-an-archive")
