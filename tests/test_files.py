"""Files are written whole or not at all."""

import errno
import json
import os
import threading

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.damage import limited_file_size
from support.files import assert_equal_arrays, read_arrays

from training import files


def test_write_json_replaces_the_file(tmp_path):
    path = tmp_path / "value.json"
    for value in ({"long": list(range(100))}, {"short": 1}):
        files.write_json(path, value)
        assert json.loads(path.read_text()) == value
    with pytest.raises(TypeError):
        files.write_json(path, {"new": 1, "bad": object()})
    assert json.loads(path.read_text()) == {"short": 1}
    assert os.listdir(tmp_path) == ["value.json"]


def test_readers_never_see_half_a_file(tmp_path):
    path, values = tmp_path / "value.json", [{"value": [number] * 50_000} for number in range(10)]
    files.write_json(path, values[0])
    writer = threading.Thread(target=lambda: [files.write_json(path, value) for value in values])
    writer.start()
    while writer.is_alive():
        assert json.loads(path.read_text()) in values
    assert json.loads(path.read_text()) == values[-1]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "value"
    files.write_whole(path, b"old")
    with limited_file_size(100), pytest.raises(OSError, match="File too large") as caught:
        files.write_whole(path, bytes(1000))
    assert (caught.value.filename, caught.value.errno) == (str(path), errno.EFBIG)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["value"]


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (tf.errors.ResourceExhaustedError(None, None, "other; No space left on device"), errno.ENOSPC),
        (tf.errors.UnknownError(None, None, "other; Input/output error"), errno.EIO),
        (tf.errors.UnknownError(None, None, "something else"), None),
        (OSError(errno.EACCES, "Permission denied", "temporary"), errno.EACCES),
    ],
)
def test_write_errors_name_the_file(tmp_path, error, number):
    with pytest.raises(OSError) as caught, files.name_in_errors(tmp_path / "file"):
        raise error
    assert (caught.value.filename, caught.value.errno) == (str(tmp_path / "file"), number)


def test_arrays_round_trip_without_pickles(tmp_path, random):
    arrays, path = {"a/b": random.normal(size=(3, 4)).astype(np.float32), "n": np.array(7)}, tmp_path / "arrays.npz"
    files.write_arrays(path, arrays)
    assert_equal_arrays(read_arrays(path), arrays)
    with files.open_arrays(path) as opened:
        assert_equal_arrays(dict(opened), arrays)
    np.savez(path, pickled=np.array([{}]))
    with pytest.raises(ValueError), files.open_arrays(path) as opened:
        dict(opened)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError):
        files.open_arrays(tmp_path / "array.npy")
