"""CIFAR-10 from files written by hand: exact pixels, or one sentence that names the path and the fix."""

import os
import shlex
import socket
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from support.cifar10 import read_examples, spoil, write_examples
from support.commands import TINY_RUN, assert_one_sentence, assert_success
from support.damage import delete, flip_bit, truncate
from support.files import contents

import data
from training import cifar10
from training.cli import UserError

NOT_PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)
MISSING = "TFDS_DATA_DIR" not in os.environ or not (Path(os.environ["TFDS_DATA_DIR"]) / "cifar10").is_dir()


def refuse(directory, **arguments):
    """Returns the sentence that refuses the directory."""
    with pytest.raises(UserError) as caught:
        data.load("cifar10", directory, **arguments)
    assert caught.value.status == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pixels_and_labels_are_exact(tiny_cifar10):
    dataset = data.load("cifar10", tiny_cifar10.directory)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        np.testing.assert_array_equal(split.images, tiny_cifar10.images[name])
        np.testing.assert_array_equal(split.labels, tiny_cifar10.labels[name])
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int64)
    assert str(tiny_cifar10.folder) in dataset.source


def test_run_uses_tfds_data_dir(tiny_cifar10, forked, tmp_path):
    argv = [*TINY_RUN, *shlex.split("--dataset cifar10 --train_size 8 --test_size 10 --batch_size 4 --epochs 1")]
    environment = {"TFDS_DATA_DIR": str(tiny_cifar10.directory)}
    result = forked("train.py", *argv, "--run_dir", tmp_path / "run", environment=environment)
    assert_success(result)
    assert str(tiny_cifar10.folder) in result.stdout
    assert "8 training and 10 test images" in result.stdout


def test_only_needed_images_are_decoded(tiny_cifar10):
    spoil(tiny_cifar10.shard("train"), -1, "image", NOT_PNG)
    for size in (6, 19):
        dataset = data.load("cifar10", tiny_cifar10.directory, train_size=size, test_size=5)
        np.testing.assert_array_equal(dataset.train.images, tiny_cifar10.images["train"][:size])
        np.testing.assert_array_equal(dataset.train.labels, tiny_cifar10.labels["train"][:size])
        assert len(dataset.test.labels) == 5
    assert "corrupt" in refuse(tiny_cifar10.directory)


@pytest.mark.skipif(MISSING, reason="TFDS_DATA_DIR does not contain CIFAR-10")
def test_real_cifar10():
    dataset = data.load("cifar10")
    for split, per_class in ((dataset.train, 5000), (dataset.test, 1000)):
        assert split.images.shape == (10 * per_class, 32, 32, 3)
        np.testing.assert_array_equal(np.bincount(split.labels, minlength=10), np.full(10, per_class))
    # The well-known mean of each channel over the training images.
    np.testing.assert_allclose(dataset.train.images.mean((0, 1, 2)) / 255, [0.4914, 0.4822, 0.4465], atol=1e-4)


def drop_last_record(shard):
    write_examples(shard, read_examples(shard)[:-1])


def change_record(name, value):
    return lambda shard: spoil(shard, 0, name, value)


def change_metadata(content):
    return lambda shard: shard.with_name("dataset_info.json").write_text(content)


DAMAGES = {
    "truncated": truncate,
    "record missing": drop_last_record,
    "bit flipped": flip_bit,
    "shard missing": delete,
    "label 10": change_record("label", 10),
    "label -1": change_record("label", -1),
    "label text": change_record("label", b"cat"),
    "not PNG": change_record("image", NOT_PNG),
    "no image": change_record("image", None),
    "empty metadata": change_metadata(""),
    "no splits": change_metadata("{}"),
    "cut metadata": change_metadata('{"name": "cif'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_corrupt_data_is_refused(tiny_cifar10, damage):
    for split in ("train", "test"):
        original = tiny_cifar10.shard(split).read_bytes()
        damage(tiny_cifar10.shard(split))
        assert f"rm -r {tiny_cifar10.folder}" in refuse(tiny_cifar10.directory)
        tiny_cifar10.shard(split).write_bytes(original)


def test_unusable_directory_is_refused(tiny_cifar10, tmp_path, monkeypatch):
    for near in (tiny_cifar10.folder, tiny_cifar10.folder.parent, tiny_cifar10.directory.parent):
        assert f"--data_dir {tiny_cifar10.directory}" in refuse(near)
    file = tmp_path / "file"
    file.touch()
    assert str(file) in refuse(file)
    assert f"mkdir -p {tmp_path / 'new'}" in refuse(tmp_path / "new")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in refuse(empty, download=False)
    assert list(empty.iterdir()) == []
    assert "--data_dir" in refuse("~no_such_user/tfds")


def assert_download_fails(forked, directory, port):
    """Runs train.py with a local port as its proxy."""
    environment = dict.fromkeys(("http_proxy", "https_proxy"), f"http://127.0.0.1:{port}")
    result = forked("train.py", "--data_dir", directory, "--run_dir", directory / "run", environment=environment)
    assert_one_sentence(result, 1, cifar10.ARCHIVE_URL, directory, "train.py --dataset synthetic")
    assert list(directory.iterdir()) == []


def test_unreachable_network(forked, tmp_path):
    assert_download_fails(forked, tmp_path, 9)


@pytest.mark.slow
def test_silent_network(forked, tmp_path):
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert_download_fails(forked, tmp_path, server.getsockname()[1])
    assert time.monotonic() - started < cifar10.CONNECT_TIMEOUT + 30


@pytest.mark.parametrize("name", ["incomplete.A1B2C3_3.0.2", "3.0.1"])
def test_interrupted_preparation_is_ignored(tiny_cifar10, name):
    (tiny_cifar10.directory / cifar10.ARCHIVE).write_bytes(b"not the archive")  # instead of a download
    tiny_cifar10.folder.rename(tiny_cifar10.folder.with_name(name))
    assert "checksum" in refuse(tiny_cifar10.directory)


def test_wrong_archive_is_not_unpacked(tmp_path):
    """The archive has members outside its directory and a link to /etc/passwd."""
    root = tmp_path / "deep" / "tfds"
    root.mkdir(parents=True)
    with tarfile.open(root / cifar10.ARCHIVE, "w:gz") as archive:
        (root / "payload").write_text("evil")
        for name in ("../../escaped", "cifar-10-batches-bin/test_batch.bin"):
            archive.add(root / "payload", name)
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = contents(tmp_path)
    assert cifar10.ARCHIVE_URL in refuse(root)
    assert contents(tmp_path) == before
