"""CIFAR-10 from files written by hand: exact pixels, or one sentence that names the command which repairs it."""

import os
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from support.cifar10 import read_examples, write_examples
from support.commands import ROOT
from support.damage import flip_bit, truncate
from support.files import contents
from training.errors import UserError

import data
from training import cifar10


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


def test_no_more_images_are_decoded_than_are_needed(tiny_cifar10):
    """The last record is not even an image."""
    shard = tiny_cifar10.shard("train")
    examples = read_examples(shard)
    image_of_noise(examples[-1].features.feature)
    write_examples(shard, examples)
    assert len(data.load("cifar10", tiny_cifar10.directory, train_size=19).train.labels) == 19
    assert "is damaged" in refused(tiny_cifar10.directory)


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


def drop_last_record(shard):
    write_examples(shard, read_examples(shard)[:-1])


@pytest.mark.parametrize("damage", [truncate, drop_last_record, flip_bit])
@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_shard_is_refused(tiny_cifar10, damage, split):
    damage(tiny_cifar10.shard(split))
    sentence = refused(tiny_cifar10.directory)
    assert f"{tiny_cifar10.folder} is damaged" in sentence
    assert f"rm -r {tiny_cifar10.folder}" in sentence


def set_label(value):
    return lambda features: features["label"].int64_list.value.__setitem__(0, value)


def label_as_text(features):
    features["label"].bytes_list.value[:] = [b"cat"]


def no_image(features):
    del features["image"]


def image_of_noise(features):
    features["image"].bytes_list.value[:] = [b"\x89PNG\r\n\x1a\n" + bytes(50)]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    "change",
    [set_label(10), set_label(-1), set_label(2**40), label_as_text, no_image, image_of_noise],
    ids=["label 10", "label -1", "label 2^40", "label as text", "no image", "image of noise"],
)
def test_record_that_is_not_cifar10_is_refused_with_the_command_that_repairs_it(tiny_cifar10, change, split):
    shard = tiny_cifar10.shard(split)
    examples = read_examples(shard)
    change(examples[0].features.feature)
    write_examples(shard, examples)
    sentence = refused(tiny_cifar10.directory)
    assert f"{tiny_cifar10.folder} is damaged" in sentence
    assert f"rm -r {tiny_cifar10.folder}" in sentence


@pytest.mark.parametrize("content", ["", "{}", '{"name": "cif'], ids=["empty", "no splits", "cut short"])
def test_damaged_metadata_is_refused(tiny_cifar10, content):
    (tiny_cifar10.folder / "dataset_info.json").write_text(content)
    assert f"rm -r {tiny_cifar10.directory / 'cifar10'}" in refused(tiny_cifar10.directory)


@pytest.mark.skipif(
    "TFDS_DATA_DIR" not in os.environ or not (Path(os.environ["TFDS_DATA_DIR"]) / "cifar10").is_dir(),
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
    for part in (cifar10.ARCHIVE_URL, str(directory), "make demo"):
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
        "import sys, time, urllib.request; sys.path.insert(0, '.'); import data\n"
        "from training import cifar10, errors\n"
        "urllib.request.urlopen = lambda *_, **__: time.sleep(100)\n"
        "cifar10.CONNECT_SECONDS = 0.2\n"
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

    monkeypatch.setattr(cifar10, "_check_reachable", lambda _: None)
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", fail)
    for _ in range(2):  # a half-made directory of the first try would change the second sentence
        sentence = refused(tmp_path)
        assert "reset by peer" in sentence
        assert_names_the_ways_out(sentence, tmp_path)


def test_archive_fetched_by_hand_is_taken_without_asking_the_network(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    (tmp_path / cifar10.ARCHIVE).write_bytes(b"not the real one")
    sentence = refused(tmp_path)
    assert "checksum is wrong" in sentence
    assert "asked the network" not in sentence


def malicious_archive(root):
    """The hand-fetched archive's name, holding what climbs out of its directory and links that point out of it."""
    with tarfile.open(root / cifar10.ARCHIVE, "w:gz") as archive:
        (root / "payload").write_text("evil")
        for name in ("../../escaped", "/tmp/escaped-from-an-archive", "cifar-10-batches-bin/test_batch.bin"):
            archive.add(root / "payload", name)
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


def test_archive_that_is_not_the_published_one_is_refused_before_it_is_unpacked(tmp_path):
    root = tmp_path / "deep" / "tfds"
    root.mkdir(parents=True)
    malicious_archive(root)
    before = contents(tmp_path)
    sentence = refused(root)
    assert f"rm {root / cifar10.ARCHIVE}" in sentence
    assert cifar10.ARCHIVE_URL in sentence
    assert contents(tmp_path) == before
    assert not os.path.exists("/tmp/escaped-from-an-archive")


PREPARE = """
import os, sys
sys.path.insert(0, {root!r})
import numpy as np, tensorflow_datasets as tfds
import data
from training import cifar10
kill = lambda: os.kill(os.getpid(), 9)
def examples(name, count):
    for index in range(count):
        if (name, index) == {moment!r}:
            kill()
        image = np.full((32, 32, 3), index, np.uint8)
        yield f"{{name}}_{{index}}", dict(id=f"{{name}}_{{index}}", image=image, label=index % 10)
builder = tfds.builder_cls("cifar10")
builder._split_generators = lambda *_: dict(train=examples("train", 20), test=examples("test", 10))
if {moment!r} == "before the rename":
    tfds.core.DatasetInfo.update_data_dir = tfds.core.DatasetInfo.write_to_directory = lambda *_: kill()
cifar10._check_reachable = lambda _: None
print(data.load("cifar10", {directory!r}).source)
"""


def test_preparation_killed_at_any_moment_is_done_anew(forked, tmp_path):
    directory, script = tmp_path / "tfds", tmp_path / "prepare.py"
    directory.mkdir()
    for moment in (("train", 0), ("train", 10), ("test", 9), "before the rename", None):
        assert not (directory / "cifar10" / "3.0.2").exists()
        script.write_text(PREPARE.format(root=str(ROOT), moment=moment, directory=str(directory)))
        result = forked(script)
        assert result.returncode == (-9 if moment else 0), result.stderr
    assert "20 training and 10 test images" in result.stdout
