"""CIFAR-10 as TFDS prepares it, small and written by hand."""

import json
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from training.cifar10 import CLASSES

SIZES = {"train": 20, "test": 10}


class TinyCifar10(NamedTuple):
    directory: Path  # what --data_dir names
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
        examples = zip(tiny.images[split], tiny.labels[split], strict=True)
        write_examples(
            tiny.shard(split),
            [_example(f"{split}_{index:05d}", image, label) for index, (image, label) in enumerate(examples)],
        )
    (tiny.folder / "label.labels.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (tiny.folder / "features.json").write_text(json.dumps(_features()))
    (tiny.folder / "dataset_info.json").write_text(json.dumps(_dataset_info(tiny)))
    return tiny


def read_examples(shard):
    return [tf.train.Example.FromString(record) for record in tf.io.tf_record_iterator(str(shard))]


def write_examples(shard, examples):
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())


def _example(name, image, label):
    features = {
        "id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name.encode()])),
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[_png(image)])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features))


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


def _dataset_info(tiny):
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
            for split, size in SIZES.items()
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }
