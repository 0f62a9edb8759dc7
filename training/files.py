"""Files that are whole or not there: written beside, flushed, renamed; and their digests."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import zipfile

import numpy as np


def write_whole(path, content):
    """Writes bytes to a file, whole or not at all.

    Raises:
      OSError: with the file's name.
    """
    beside = path.with_name(f".{path.name}.new")
    with naming(path), _alone_in(path.parent):
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone_in(directory):
    """Waits until no other process, which perhaps makes the same report, is within this; some file systems cannot."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def naming(path):
    """Turns every failure to write `path`, TensorFlow's included, into an OSError that names it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    except Exception as error:
        if not hasattr(error, "error_code"):  # of every tf.errors.OpError; this module does without TensorFlow
            raise
        reason = _reason(error)
        raise OSError(ERRNO.get(reason), reason, str(path)) from None


ERRNO = {os.strerror(number): number for number in errno.errorcode}  # TensorFlow keeps the words alone


def _reason(error):
    """What went wrong, out of the many lines of a TensorFlow error: "<file>; <reason>" is one of them."""
    found = re.search("; (.+)$", error.message, re.MULTILINE)
    return found[1] if found else error.message.splitlines()[0]


def write_json(path, value):
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def write_arrays(path, arrays):
    """Writes an .npz."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())


def open_arrays(path):
    """An .npz that may be damaged, for reading, as a context manager; ValueError: it is none, or is cut short."""
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):  # NumPy takes it for a pickle, and says how to load that
            raise ValueError("it is no whole .npz")
    return np.load(path, allow_pickle=False)


def sha256(path):
    """The SHA-256 digest of a file, in hexadecimal."""
    with naming(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()


def flush_to_disk(path):
    """Waits until a file, or the names in a directory, are on the disk.

    CIFS, FUSE, VirtualBox and WSL mounts cannot do it for a directory, and say so in one of several ways.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
