"""Atomic file writes and digests."""

import errno
import hashlib
import io
import json
import os
from contextlib import contextmanager

import numpy as np

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_whole(path, content):
    """Writes bytes to a file atomically: to a temporary file in the same directory, flushed, then renamed.

    Raises:
      OSError: with the file's name; an earlier file stays untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with name_in_errors(path):
        try:
            temporary.write_bytes(content)
            flush_to_disk(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def name_in_errors(path):
    """Makes OSErrors name the file that could not be written, and turns TensorFlow errors into OSErrors."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    except Exception as error:
        if not hasattr(error, "error_code"):  # tf.errors.OpError has one; this module does not import TensorFlow
            raise
        for number in DISK_ERRORS:  # TensorFlow keeps only the text of an errno
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from None
        raise OSError(None, str(error).splitlines()[0], str(path)) from None


def write_json(path, value):
    """Writes a JSON document, as `write_whole` does."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())


def write_arrays(path, arrays):
    """Writes a dict of arrays as .npz, as `write_whole` does."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())


def open_arrays(path):
    """Opens an .npz as a context manager; never unpickles.

    Raises:
      ValueError: the file is not an .npz.
    """
    arrays = np.load(path, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise ValueError("the file is not an .npz")
    return arrays


def sha256(path):
    """Returns the SHA-256 digest of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flush_to_disk(path):
    """Waits until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno in DISK_ERRORS:  # some network file systems cannot flush a directory
            raise
    finally:
        os.close(descriptor)
