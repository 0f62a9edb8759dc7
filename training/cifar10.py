"""Loads CIFAR-10 with TFDS, downloading it on first use."""

import os
import shlex
import urllib.request
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from training.cli import UserError, is_out_of_memory, script

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
CONNECT_TIMEOUT = 20  # seconds
DECODED_AHEAD = 64  # images


def load(data_dir, sizes, download=True):
    """Loads CIFAR-10 from a TFDS directory; downloads and prepares it there if necessary.

    Args:
      data_dir: None for TFDS's default (TFDS_DATA_DIR or ~/tensorflow_datasets).
      sizes: split to the number of leading images needed, or None; more may be returned.
      download: False to refuse missing data instead.

    Returns:
      ({"train" and "test": (images [N, 32, 32, 3] uint8, labels [N] int64)}, the source for the log).

    Raises:
      UserError: the data is missing or corrupt, or cannot be downloaded.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    root = find_root(data_dir)
    folder = root / "cifar10" / str(tfds.builder_cls("cifar10").VERSION)
    if not folder.exists():
        check_root(root, folder.name, must_exist=bool(data_dir))
        if not download:
            raise UserError(f"CIFAR-10 is not in {root}: pass the TFDS directory with --data_dir")
        _prepare(root)
    try:
        builder = tfds.builder("cifar10", data_dir=root)
        splits = {split: _read(builder, split, size) for split, size in sizes.items()}
    except (PermissionError, tf.errors.PermissionDeniedError):
        raise UserError(f"{folder}: permission denied, check the permissions") from None
    except Exception as error:  # JSON, protocol buffers, records and PNG files each raise their own errors
        if is_out_of_memory(error):
            raise
        delete = f"delete it (rm -r {shlex.quote(str(folder))}), and the next run prepares it again"
        raise UserError(f"{folder} is corrupt ({first_line(error)}): {delete}") from None
    return splits, f"CIFAR-10 from {folder}"


def find_root(data_dir):
    """Returns the absolute path of the TFDS directory."""
    import tensorflow_datasets as tfds

    try:
        return Path(os.path.abspath(Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()))
    except RuntimeError:
        raise UserError("no home directory found: pass a directory for CIFAR-10 with --data_dir") from None


def check_root(root, version, must_exist):
    """Raises UserError if `root` is missing, is not a directory, or is one level off a prepared TFDS directory."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is not a directory: pass the directory that contains it with --data_dir")
    if must_exist and not root.exists():
        raise UserError(f"{root} does not exist: create it (mkdir -p {shlex.quote(str(root))}) or change --data_dir")
    for nearby in (root.parent, root.parent.parent, *root.glob("*")):
        prepared = nearby / "cifar10" / version
        if prepared.is_dir() and (nearby.parent == root or root in (prepared.parent, prepared)):
            raise UserError(f"{root} is not the TFDS directory: pass --data_dir {shlex.quote(str(nearby))}")


def _prepare(root):
    """Downloads CIFAR-10 with TFDS, which verifies its checksum; uses the archive if the user put it into `root`."""
    import tensorflow_datasets as tfds

    archive, config = root / ARCHIVE, None
    retry = f"or download {ARCHIVE_URL} on another machine, put it into {root} and retry"
    if archive.is_file():
        config = tfds.download.DownloadConfig(manual_dir=root)
    else:
        print(f"CIFAR-10 is not in {root}: downloading 162 MiB from {ARCHIVE_URL}", flush=True)
        request = urllib.request.Request(ARCHIVE_URL, method="HEAD")
        try:  # TFDS retries a dead network for minutes
            urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT).close()
        except (OSError, ValueError) as error:
            example = f"{script('train')} --dataset synthetic"
            raise UserError(f"cannot download CIFAR-10 ({error}): check the network, try {example}, {retry}") from None
    try:
        tfds.builder("cifar10", data_dir=root).download_and_prepare(download_config=config)
    except Exception as error:  # TFDS and its HTTP client raise many types
        checks = "check the disk space, the permissions and the archive"
        raise UserError(f"cannot prepare CIFAR-10 in {root} ({first_line(error)}): {checks}, {retry}") from None


def _read(builder, split, size):
    """Returns images and labels of a split; all of them unless its first `size` images can be read alone."""
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    # TFDS interleaves several shards, so their first images are not the first images of the split.
    partly = size is not None and size < info.num_examples and len(info.filepaths) == 1
    count, name = (size, f"{split}[:{size}]") if partly else (info.num_examples, split)
    with tf.Graph().as_default():
        config = tfds.ReadConfig(num_parallel_calls_for_decode=DECODED_AHEAD)
        arrays = tfds.as_numpy(builder.as_dataset(name, batch_size=-1, shuffle_files=False, read_config=config))
    images, labels = arrays["image"], arrays["label"].astype(np.int64)
    if images.shape != (count, *IMAGE_SHAPE) or not np.isin(labels, range(len(CLASS_NAMES))).all():
        raise ValueError(f"{split} has images {images.shape} and labels {labels.min()} to {labels.max()}")
    return images, labels


def first_line(error):
    """Returns the first line of an error message, or the error's type if the message is empty."""
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(":")
