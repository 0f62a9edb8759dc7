"""Fixtures that several test modules share: a graph and session each, a small CIFAR-10 on disk, the command line."""

import json
import os
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import flags
import runs
import train
from data import CLASSES
from runs import log
from trained import Trained

tf.disable_eager_execution()  # as train.py does

ROOT = Path(__file__).parent.parent


@pytest.fixture
def session():
    """A session on a fresh default graph, seeded, on the CPU."""
    with tf.Graph().as_default(), tf.device("CPU:0"), tf.Session() as session:
        tf.set_random_seed(0)
        yield session


@pytest.fixture
def initialised(session):
    """Initialises every variable of the session's graph; returns the session."""

    def initialise(feeds=None):
        session.run(tf.global_variables_initializer())
        session.run(tf.local_variables_initializer(), feeds)
        return session

    return initialise


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def fresh_log():
    """Leaves the run's logger as it was found: opening a run directory points it to that run's train.log."""
    before = log.handlers[:], log.level, log.propagate
    yield
    for handler in set(log.handlers) - set(before[0]):
        handler.close()
    log.handlers[:], log.level, log.propagate = before


# ---------------------------------------------------------------------------------------------------------------
# CIFAR-10 as TFDS prepares it, written by hand


class TinyCifar10(NamedTuple):
    directory: Path  # what --data_dir names
    images: dict  # split to [N, 32, 32, 3] uint8
    labels: dict  # split to [N] int64

    @property
    def folder(self):
        return self.directory / "cifar10" / "3.0.2"

    def shard(self, split):
        return self.folder / f"cifar10-{split}.tfrecord-00000-of-00001"


@pytest.fixture
def tiny_cifar10(tmp_path):
    """20 training and 10 test images of random pixels under `tmp_path`, in the format of TFDS."""
    random = np.random.default_rng(1)
    sizes = {"train": 20, "test": 10}
    tiny = TinyCifar10(
        tmp_path / "tfds",
        {split: random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8) for split, size in sizes.items()},
        {split: random.permutation(size) % 10 for split, size in sizes.items()},
    )
    tiny.folder.mkdir(parents=True)
    for split in sizes:
        with tf.io.TFRecordWriter(str(tiny.shard(split))) as writer:
            for index, (image, label) in enumerate(zip(tiny.images[split], tiny.labels[split], strict=True)):
                writer.write(_example(f"{split}_{index:05d}", image, label))
    (tiny.folder / "label.labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (tiny.folder / "features.json").write_text(json.dumps(_features()))
    (tiny.folder / "dataset_info.json").write_text(json.dumps(_dataset_info(tiny, sizes)))
    return tiny


def _example(name, image, label):
    features = {
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[_png(image)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _png(image):
    """An 8-bit RGB PNG, no filter on any row."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width, _ = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _features():
    def feature(module, name, **value):
        return {"pythonClassName": f"tensorflow_datasets.core.features.{module}.{name}", **value}

    image = {"dtype": "uint8", "shape": {"dimensions": ["32", "32", "3"]}}
    features = {
        "id": feature("text_feature", "Text", text={}),
        "image": feature("image_feature", "Image", image=image),
        "label": feature("class_label_feature", "ClassLabel", classLabel={"numClasses": "10"}),
    }
    return feature("features_dict", "FeaturesDict", featuresDict={"features": features})


def _dataset_info(tiny, sizes):
    return {
        "name": "cifar10",
        "version": "3.0.2",
        "fileFormat": "tfrecord",
        "moduleName": "tensorflow_datasets.image_classification.cifar",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(tiny.shard(split).stat().st_size),
                "shardLengths": [str(size)],
            }
            for split, size in sizes.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }


# ---------------------------------------------------------------------------------------------------------------
# The command line, as a black box

# A network and a data set so small that a run is mostly TensorFlow's import.
TINY_RUN = shlex.split(
    "--dataset synthetic --width 0.05 --train_size 256 --test_size 64 --batch_size 32 --device cpu --precision float32"
)


@pytest.fixture(scope="session")
def start():
    """Starts `python <script> <arguments>` from the project's root, with no GPU and no network in sight."""
    processes = []
    dead = "http://127.0.0.1:9"  # nothing listens there
    cut_off = {"CUDA_VISIBLE_DEVICES": "-1", "http_proxy": dead, "https_proxy": dead}

    def start(script, *arguments, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        processes.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **cut_off}, **options))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def run(start):
    """Runs `python <script> <arguments>` to its end, at most two minutes; a CompletedProcess."""

    def run(script, *arguments):
        process = start(script, *arguments)
        stdout, stderr = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="session")
def finished_run(run, tmp_path_factory):
    """(directory, stdout) of a run of TINY_RUN over two epochs; for reading only."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    result = run("train.py", *TINY_RUN, "--ema_decay", "0.90", "--epochs", 2, "--run_dir", directory)
    assert result.returncode == 0, result.stderr
    return directory, result.stdout


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """As `run`, in processes forked after TensorFlow's import, which run the Python source `before` first.

    A negative return code is the signal that ended it.
    """
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "forking.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "CUDA_VISIBLE_DEVICES": "-1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def forked(script, *arguments, before=""):
        folder = tmp_path_factory.mktemp("forked")
        argv, stdout, stderr = list(map(str, arguments)), folder / "stdout", folder / "stderr"
        job = {"script": str(script), "argv": argv, "before": before, "stdout": str(stdout), "stderr": str(stderr)}
        print(json.dumps(job), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess([script, *argv], status, stdout.read_text(), stderr.read_text())

    yield forked
    server.stdin.close()
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The directory of a run of TINY_RUN with several averages and every batch-statistics policy; for reading only."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    averages = "--ema_decay 0.90 0.80 --ema_batch_stats averaged raw recomputed --ema_power 0.05 0.1 0.15"
    before = log.handlers[:], log.level, log.propagate
    train.main(flags.parse([*TINY_RUN, *shlex.split(averages), "--epochs", "2", "--run_dir", str(directory)]))
    log.handlers[:], log.level, log.propagate = before
    return directory


@pytest.fixture(scope="session")
def shared_trained(trained_run):
    """trained.Trained of `trained_run`; see `trained`."""
    with Trained(trained_run) as trained:
        yield trained


@pytest.fixture
def trained(shared_trained):
    """trained.Trained of `trained_run`, its last checkpoint restored."""
    runs.restore_checkpoint(shared_trained.path, shared_trained.graph.saver, shared_trained.session)
    return shared_trained
