"""A small CIFAR-10 in the format of TFDS, written by hand."""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image

SIZES = {"train": 20, "test": 10}


class TinyCifar10(NamedTuple):
    directory: Path  # for --data_dir
    images: dict  # split to [N, 32, 32, 3] uint8
    labels: dict  # split to [N] int64

    @property
    def folder(self):
        return self.directory / "cifar10" / "3.0.2"

    def shard(self, split):
        return self.folder / f"cifar10-{split}.tfrecord-00000-of-00001"


def write(directory):
    """Writes 20 training and 10 test images of random pixels, in the format of TFDS; returns TinyCifar10."""
    random = np.random.default_rng(1)
    tiny = TinyCifar10(
        directory,
        {split: random.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8) for split, size in SIZES.items()},
        {split: random.permutation(size) % 10 for split, size in SIZES.items()},
    )
    tiny.folder.mkdir(parents=True)
    for split in SIZES:
        write_examples(tiny.shard(split), map(_example, tiny.images[split], tiny.labels[split]))
    (tiny.folder / "dataset_info.json").write_text(json.dumps(_dataset_info(tiny)))
    return tiny


def read_examples(shard):
    return [tf.train.Example.FromString(record) for record in tf.io.tf_record_iterator(str(shard))]


def write_examples(shard, examples):
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())


def spoil(shard, index, name, value):
    """Changes the feature `name` of one example to an int or bytes, or removes it (None)."""
    examples = read_examples(shard)
    features = examples[index].features.feature
    del features[name]
    if value is not None:
        features[name].CopyFrom(_feature(value))
    write_examples(shard, examples)


def _example(image, label):
    png = io.BytesIO()
    Image.fromarray(image).save(png, "png")
    features = {"id": b"unused", "image": png.getvalue(), "label": int(label)}
    feature = {name: _feature(value) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=feature))


def _feature(value):
    if isinstance(value, bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def _dataset_info(tiny):
    return {
        "name": "cifar10",
        "version": "3.0.2",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(tiny.shard(split).stat().st_size),
                "shardLengths": [str(size)],
            }
            for split, size in SIZES.items()
        ],
    }
