"""Files of a run, read without the program."""

import json

import numpy as np
import tensorflow.compat.v1 as tf

from support.commands import wait_until
from training import checkpoints

TIMINGS = {"seconds", "images_per_second", "evaluation_seconds"}


def contents(directory):
    """Returns {path: bytes} of every file under the directory."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def read_rows(directory):
    """Returns the rows of metrics.jsonl; [] if there is no file yet."""
    file = directory / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_row(directory, process):
    """Waits until a run has written another row."""
    rows = len(read_rows(directory))
    wait_until(lambda: len(read_rows(directory)) > rows, process)


def rows_without_timings(directory):
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in read_rows(directory)]


def read_arrays(file):
    """Returns {name: array} of an .npz."""
    with np.load(file, allow_pickle=False) as saved:
        return dict(saved)


def checkpoint_values(directory):
    """Returns {variable name: array} of the newest checkpoint of a run."""
    reader = tf.train.load_checkpoint(str(checkpoints.list_checkpoints(directory)[-1] / "model"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def read_events(directory):
    """Returns the TensorBoard events of a run: {directory below tensorboard/: {tag: [(step, value)]}}."""
    root, curves = directory / "tensorboard", {}
    for file in sorted(root.rglob("events.out.tfevents.*")):
        tags = curves.setdefault(str(file.parent.relative_to(root)), {})
        for event in tf.train.summary_iterator(str(file)):
            for value in event.summary.value:
                tags.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def assert_equal_arrays(got, expected):
    """Checks that two dicts of arrays are equal bit for bit."""
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name
