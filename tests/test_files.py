"""Files that are whole or not there, whatever happens while they are written."""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.damage import limited_file_size
from support.files import assert_equal_arrays, read_arrays

from training import files


def test_write_json_replaces_the_whole_file(tmp_path):
    path = tmp_path / "value.json"
    for value in ({"long": list(range(100))}, {"short": 1}):
        files.write_json(path, value)
        assert json.loads(path.read_text()) == value
    with pytest.raises(TypeError):
        files.write_json(path, {"new": 1, "bad": object()})
    assert json.loads(path.read_text()) == {"short": 1}
    assert os.listdir(tmp_path) == ["value.json"]


def test_a_file_that_is_written_again_and_again_is_never_seen_half_written(tmp_path):
    path, values = tmp_path / "value.json", [{"value": [number] * 50_000} for number in range(10)]
    files.write_json(path, values[0])
    writer = threading.Thread(target=lambda: [files.write_json(path, value) for value in values])
    writer.start()
    while writer.is_alive():
        assert json.loads(path.read_text()) in values
    assert json.loads(path.read_text()) == values[-1]


def test_failure_to_write_names_the_file_and_leaves_the_old_one_alone(tmp_path):
    path = tmp_path / "value"
    files.write_whole(path, b"old")
    with limited_file_size(100), pytest.raises(OSError, match="File too large") as caught:
        files.write_whole(path, bytes(1000))
    assert (caught.value.filename, caught.value.errno) == (str(path), errno.EFBIG)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["value"]


def test_two_may_write_a_file_at_once(tmp_path):
    contents = [bytes([letter]) * 10**6 for letter in b"ab"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(files.write_whole, 40 * [tmp_path / "file"], 20 * contents))
    assert (tmp_path / "file").read_bytes() in contents


def test_failure_of_tensorflow_names_the_file_and_its_reason(tmp_path):
    file = tf.io.gfile.GFile(tmp_path / "beside", "w")
    with limited_file_size(100), pytest.raises(OSError, match="File too large") as caught, files.naming(tmp_path / "a"):
        file.write("x" * 1000)
        file.close()
    assert (caught.value.filename, caught.value.errno) == (str(tmp_path / "a"), errno.EFBIG)


def test_a_mistake_of_ours_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), files.naming(tmp_path):
        raise ZeroDivisionError


def test_arrays_are_read_back_without_unpickling(tmp_path, random):
    arrays = {"a/b": random.normal(size=(3, 4)).astype(np.float32), "n": np.array(7)}
    files.write_arrays(tmp_path / "arrays.npz", arrays)
    assert_equal_arrays(read_arrays(tmp_path / "arrays.npz"), arrays)


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs /proc")
def test_a_file_that_the_disk_does_not_give_is_named():
    with pytest.raises(OSError) as caught:
        files.sha256(Path("/proc/self/mem"))  # the first page of which nobody has
    assert (caught.value.filename, caught.value.errno) == ("/proc/self/mem", errno.EIO)
