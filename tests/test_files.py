"""Files that are whole or not there, whatever happens while they are written."""

import errno
import hashlib
import json
import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.files import read_arrays

from training import files


def test_write_json_replaces_the_whole_file(tmp_path):
    path = tmp_path / "value.json"
    for value in ({"long": list(range(100))}, {"short": 1}):
        files.write_json(path, value)
        assert json.loads(path.read_text()) == value
    assert os.listdir(tmp_path) == ["value.json"]


def test_failed_write_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": 1, "bad": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_write_json_is_never_seen_half_written(tmp_path, monkeypatch):
    """What is under the final name at every flush to the disk is the old file."""
    path = tmp_path / "value.json"
    files.write_json(path, {"old": 1})
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(json.loads(path.read_text())))
    files.write_json(path, {"new": 1})
    assert seen
    assert all(value == {"old": 1} for value in seen)
    assert json.loads(path.read_text()) == {"new": 1}


def test_failure_to_write_names_the_file_and_leaves_nothing_beside_it(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.write_whole(tmp_path / "value", b"new")
    assert caught.value.filename == str(tmp_path / "value")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_failure_of_tensorflow_names_the_file_and_its_reason(tmp_path):
    message = "{{function_node save}} save\n/elsewhere/model.tempstate; File too large\n\t [[node save]]"
    with pytest.raises(OSError, match="File too large") as caught, files.naming(tmp_path / "model"):
        raise tf.errors.ResourceExhaustedError(None, None, message)
    assert (caught.value.filename, caught.value.strerror) == (str(tmp_path / "model"), "File too large")


def test_a_mistake_of_ours_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), files.naming(tmp_path):
        raise ZeroDivisionError


def test_arrays_are_read_back_without_unpickling(tmp_path, random):
    arrays = {"a/b": random.normal(size=(3, 4)).astype(np.float32), "n": np.array(7)}
    files.write_arrays(tmp_path / "arrays.npz", arrays)
    found = read_arrays(tmp_path / "arrays.npz")
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert files.sha256(tmp_path / "file") == hashlib.sha256(b"content").hexdigest()
