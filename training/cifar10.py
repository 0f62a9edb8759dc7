"""CIFAR-10 through TFDS: downloaded, checked, read, and every failure in one sentence that names the repair."""

import errno
import os
import queue
import shlex
import threading
import urllib.request
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

from training.command import REMEDIES, UserError, is_out_of_memory, script
from training.flags import is_utf8

IMAGE_SHAPE = (32, 32, 3)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
CONNECT_SECONDS = 20
DECODED_AHEAD = 64  # images; one for each core, the default, keeps the threads busy waking one another


def load(data_dir=None, sizes=None):
    """Loads CIFAR-10 from a TFDS directory, where it is downloaded and prepared first if need be.

    Args:
      data_dir: None for TFDS's own.
      sizes: split to the number of images, the first ones, that are needed; more may come.

    Returns:
      ({"train" and "test": (images [N, 32, 32, 3] uint8, labels [N] int64)}, where it lies).

    Raises:
      UserError: the data is missing, damaged, or cannot be downloaded.
    """
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    root, folder = location(data_dir)
    if data_dir or root.is_symlink() or root.exists():
        check_directory(root)
    for place in (folder.parent, folder, root / "downloads"):
        if os.path.lexists(place) and not os.path.isdir(place):
            remove = f"remove it (rm {shlex.quote(str(place))})"
            raise UserError(f"{place} is no directory: {remove} or, if it is a link, mend that")
    if not folder.exists():  # TFDS prepares beside it and renames: where it is, it once was whole
        if other := prepared_elsewhere(root, folder.name):
            raise UserError(f"{root} is not the directory that holds cifar10/{folder.name}: say --data_dir {other}")
        _prepare(root)
    delete = f"delete it (rm -r {shlex.quote(str(folder))}), and train.py or evaluate.py has it prepared anew"
    deletable = all(os.access(path, os.W_OK) for path in (folder, folder.parent))
    remedy = delete if deletable else "have it mended, or name another directory with --data_dir"
    try:
        builder = tfds.builder("cifar10", data_dir=root)
        if (form := builder.info.file_format) != tfds.core.FileFormat.TFRECORD:
            raise UserError(
                f"{folder} is prepared as {form.value}, and not as tfrecord: name another directory with --data_dir"
            )
        shards = [path for split in builder.info.splits.values() for path in split.filepaths]
        for path in map(Path, [folder / "dataset_info.json", *shards]):
            if not path.exists():
                raise UserError(f"{folder} is only half prepared, {path.name} is missing: {remedy}")
        splits = {name: _read(builder, name, (sizes or {}).get(name)) for name in ("train", "test")}
    except UserError:
        raise
    except Exception as error:  # TFDS parses JSON, protocol buffers, records and PNG, each with errors of its own
        check_readable(folder)
        if is_out_of_memory(error) or getattr(error, "errno", None) == errno.EIO:
            raise
        raise UserError(f"{folder} is damaged ({_reason(error)}): {remedy}") from None
    return splits, folder


def location(data_dir=None):
    """The TFDS directory, by default TFDS's own, and the folder in it that CIFAR-10 is prepared in."""
    import tensorflow_datasets as tfds

    named = str(data_dir or tfds.core.constants.DATA_DIR)
    if "://" in named:
        raise UserError(f"{named} is no directory of this machine: name one with --data_dir")
    try:
        root = Path(os.path.abspath(Path(named).expanduser()))  # TFDS_DATA_DIR may be relative
    except RuntimeError:
        raise UserError("there is no home directory to keep CIFAR-10 in: name another with --data_dir") from None
    if not is_utf8(str(root)):
        raise UserError(f"{root} is no UTF-8 here: name another directory with --data_dir, or set LC_ALL=C.UTF-8")
    return root, root / "cifar10" / str(tfds.builder_cls("cifar10").VERSION)


def check_readable(folder):
    """Checks that what lies in a folder may be read; a UserError names what may not."""
    for path in [folder, *folder.iterdir()] if os.access(folder, os.R_OK | os.X_OK) else [folder]:
        if not os.access(path, os.R_OK):
            raise UserError(f"{path} cannot be read: get access")


def check_directory(root):
    """Checks that a --data_dir is a directory.

    Raises:
      UserError: what it is, and what to name instead.
    """
    if root.is_symlink() and not root.exists():
        raise UserError(
            f"the data directory {root} is a link to {os.readlink(root)}, which does not exist: mend the link"
        )
    if root.is_file():
        what = "the archive itself" if root.name == ARCHIVE else "a file"
        raise UserError(f"{root} is {what}: name the directory it lies in, --data_dir {shlex.quote(str(root.parent))}")
    if not root.is_dir():
        raise UserError(
            f"the data directory {root} does not exist: create it (mkdir -p {shlex.quote(str(root))}) to have CIFAR-10 "
            "downloaded there, or name one that holds it"
        )


def prepared_elsewhere(root, version):
    """The TFDS directory, quoted for a shell, that a person meant who named one above or below it; None if there is
    none."""
    below = sorted(root.glob(f"*/cifar10/{version}/dataset_info.json"))
    for found in [root / "dataset_info.json", root / version / "dataset_info.json", *below[:1]]:
        if found.exists() and found.parent.name == version:
            return shlex.quote(str(found.parents[2]))
    return None


def _reason(error):
    """The line of an error that says what went wrong: the first one, or TensorFlow's last above its nodes."""
    lines = [line for line in getattr(error, "message", str(error)).splitlines() if not line.startswith("\t")]
    return (lines or [type(error).__name__])[-1 if lines[:1] == ["Graph execution error:"] else 0]


def _read(builder, split, size=None):
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    # Of several shards, which TFDS reads in turns, the first images are not the first of each: they are read whole.
    partly = size is not None and size < info.num_examples and len(info.filepaths) == 1
    with tf.Graph().as_default():
        part = f"{split}[:{size}]" if partly else split
        config = tfds.ReadConfig(num_parallel_calls_for_decode=DECODED_AHEAD)
        arrays = tfds.as_numpy(builder.as_dataset(part, batch_size=-1, shuffle_files=False, read_config=config))
    images, labels = arrays["image"], arrays["label"].astype(np.int64)
    expected = size if partly else info.num_examples
    if len(labels) != expected or images.shape[1:] != IMAGE_SHAPE or images.dtype != np.uint8:
        raise ValueError(f"{split} holds images {images.shape} {images.dtype}, not ({expected}, 32, 32, 3) uint8")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"{split} holds a label outside 0..9")
    return images, labels


def _prepare(root):
    """Downloads CIFAR-10 into a TFDS directory, or takes the archive that was put there by hand.

    TFDS checks the archive's SHA-256 before it unpacks it, into a directory of its own.
    """
    import tensorflow_datasets as tfds

    archive = root / ARCHIVE
    by_hand = archive.is_file()
    make = "" if root.is_dir() else f"make {root} (mkdir -p {shlex.quote(str(root))}), "
    offline = (
        f"{make}fetch {ARCHIVE_URL} on a machine that can, put it into {root} and run the same command again, "
        f"or try everything without data: {script('train')} --dataset synthetic"
    )
    if others := sorted(path.name for path in root.glob("cifar10/[0-9]*")):
        print(f"{root / 'cifar10'} holds version {', '.join(others)}, which this TFDS does not read", flush=True)
    if not os.access(next(place for place in (root, *root.parents) if place.exists()), os.W_OK):
        raise UserError(f"CIFAR-10 is not in {root}, which cannot be written: name another directory with --data_dir")
    if not by_hand:
        print(f"CIFAR-10 is not in {root} yet: downloading 162 MiB from {ARCHIVE_URL}", flush=True)
        _check_reachable(offline)
    config = tfds.download.DownloadConfig(manual_dir=root) if by_hand else None
    try:
        tfds.builder("cifar10", data_dir=root).download_and_prepare(download_config=config)
    except tfds.download.download_manager.NonMatchingChecksumError:
        if by_hand:
            raise UserError(
                f"{archive} is not the published archive, its checksum is wrong: delete it (rm "
                f"{shlex.quote(str(archive))}), {offline}"
            ) from None
        raise UserError(
            f"what came from {ARCHIVE_URL} has the wrong checksum: run the same command again, or {offline}"
        ) from None
    except Exception as error:  # TFDS and its HTTP client raise many kinds; each means that the data did not come
        words = str(error).replace("Not enough disk space", os.strerror(errno.ENOSPC))
        for number, remedy in REMEDIES.items():
            if os.strerror(number) in words:
                offline = f"{remedy}, then run the same command again"
        raise UserError(f"CIFAR-10 could not be prepared ({_reason(error)}): {offline}") from None


def _check_reachable(offline):
    """TFDS retries a dead network for minutes; this finds out within CONNECT_SECONDS, DNS included."""
    outcome = queue.Queue()

    def ask():
        try:
            request = urllib.request.Request(ARCHIVE_URL, method="HEAD")
            urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
            outcome.put(None)
        except Exception as error:  # a proxy that is no address raises others than OSError
            outcome.put(getattr(error, "reason", error))

    threading.Thread(target=ask, daemon=True).start()  # the end of the process does not wait for the answer
    try:
        reason = outcome.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        reason = f"no answer within {CONNECT_SECONDS} s"
    if reason is not None:
        raise UserError(f"CIFAR-10 could not be downloaded ({reason}): {offline}")
