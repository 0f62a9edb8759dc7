"""Loads CIFAR-10 with TFDS, downloading it on first use."""

import os
import shlex
import urllib.request
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from training.cli import UserError, is_out_of_memory, script

IMAGE_SHAPE = (32, 32, 3)
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
CONNECT_SECONDS = 20
DECODED_AHEAD = 64  # images


def load(data_dir=None, sizes=None, download=True):
    """Loads CIFAR-10 from a TFDS directory; downloads and prepares it there if necessary.

    Args:
      data_dir: None for TFDS's default (TFDS_DATA_DIR or ~/tensorflow_datasets).
      sizes: split to the number of leading images needed; more may be returned.
      download: False to refuse missing data instead.

    Returns:
      ({"train" and "test": (images [N, 32, 32, 3] uint8, labels [N] int64)}, their source, for the log).

    Raises:
      UserError: the data is missing, damaged, or cannot be downloaded.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    root, folder = location(data_dir)
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is not a directory: pass the directory that contains it with --data_dir")
    if data_dir and not root.is_dir():
        raise UserError(
            f"{root} does not exist: create it (mkdir -p {shlex.quote(str(root))}) to download CIFAR-10 there"
        )
    if not folder.exists() and not download:
        raise UserError(f"CIFAR-10 is not in {folder}: pass the directory that contains cifar10/ with --data_dir")
    if not folder.exists():
        _prepare(root)
    try:
        builder = tfds.builder("cifar10", data_dir=root)
        splits = {name: _read(builder, name, (sizes or {}).get(name)) for name in ("train", "test")}
    except PermissionError as error:
        raise UserError(f"{error.filename or folder}: permission denied, check the permissions") from None
    except Exception as error:  # TFDS parses JSON, protocol buffers, records and PNG, each with its own errors
        if is_out_of_memory(error):
            raise
        delete = f"delete it (rm -r {shlex.quote(str(folder))}) and it will be prepared again"
        raise UserError(f"{folder} is corrupt ({first_line(error)}): {delete}") from None
    return splits, f"CIFAR-10 from {folder}"


def location(data_dir=None):
    """The TFDS directory, and the directory in it that holds (or will hold) CIFAR-10."""
    import tensorflow_datasets as tfds

    root = Path(os.path.abspath(Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()))
    return root, root / "cifar10" / str(tfds.builder_cls("cifar10").VERSION)


def _read(builder, split, size=None):
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    # TFDS interleaves several shards, so their first images are not the first of the split: read them whole.
    partly = size is not None and size < info.num_examples and len(info.filepaths) == 1
    with tf.Graph().as_default():
        config = tfds.ReadConfig(num_parallel_calls_for_decode=DECODED_AHEAD)
        part = f"{split}[:{size}]" if partly else split
        arrays = tfds.as_numpy(builder.as_dataset(part, batch_size=-1, shuffle_files=False, read_config=config))
    images, labels = arrays["image"], arrays["label"].astype(np.int64)
    if len(labels) != (size if partly else info.num_examples) or images.shape[1:] != IMAGE_SHAPE:
        raise ValueError(f"{split} holds images {images.shape}")
    return images, labels


def _prepare(root):
    """Downloads CIFAR-10 with TFDS, or uses the archive if the user put it into `root`."""
    import tensorflow_datasets as tfds

    archive = root / ARCHIVE
    offline = (
        f"download {ARCHIVE_URL} on another machine, put it into {root} and retry, "
        f"or try {script('train')} --dataset synthetic"
    )
    if not archive.is_file():
        print(f"CIFAR-10 is not in {root}: downloading 162 MiB from {ARCHIVE_URL}", flush=True)
        try:  # TFDS would retry a dead network for minutes
            urllib.request.urlopen(urllib.request.Request(ARCHIVE_URL, method="HEAD"), timeout=CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise UserError(f"CIFAR-10 could not be downloaded ({error}): {offline}") from None
    config = tfds.download.DownloadConfig(manual_dir=root) if archive.is_file() else None
    try:
        tfds.builder("cifar10", data_dir=root).download_and_prepare(download_config=config)
    except Exception as error:  # wrong checksum, no space, no network: TFDS and its HTTP client raise many kinds
        raise UserError(f"CIFAR-10 could not be prepared ({first_line(error)}): {offline}") from None


def first_line(error):
    """The first line of an error message, or the error's type if it has no message."""
    return next(iter(str(error).splitlines()), type(error).__name__)
