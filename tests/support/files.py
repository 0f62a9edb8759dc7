"""What a run leaves behind, read as another program would."""

import json

import numpy as np
import tensorflow.compat.v1 as tf

from support.commands import wait_until
from training import checkpoints

TIMINGS = {"seconds", "images_per_second", "evaluation_seconds"}


def contents(directory):
    """Every file under the directory: path to bytes."""
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def read_rows(directory):
    """metrics.jsonl, every line of which must be whole; none where there is no such file yet."""
    file = directory / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_a_row(directory, process):
    """Waits until a run has evaluated once more than when this is called."""
    rows = len(read_rows(directory))
    wait_until(lambda: len(read_rows(directory)) > rows, process)


def rows_without_timings(directory):
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in read_rows(directory)]


def read_arrays(file):
    """An .npz: name to array."""
    with np.load(file, allow_pickle=False) as saved:
        return dict(saved)


def checkpoint_values(directory):
    """The newest checkpoint of a run: variable name to array."""
    reader = tf.train.load_checkpoint(str(checkpoints.list_checkpoints(directory)[-1] / "model"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def scalars(directory):
    """What TensorBoard shows, without what a later session took back: curve to {tag: [(step, value)]}.

    A curve is named by its directory below tensorboard/.
    """
    root, shown = directory / "tensorboard", {}
    for file in sorted(root.rglob("events.out.tfevents.*")):
        points = shown.setdefault(str(file.parent.relative_to(root)), [])
        for event in tf.train.summary_iterator(str(file)):
            if event.session_log.status == tf.SessionLog.START:
                points[:] = [point for point in points if point[1] < event.step]
            points += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
    return {curve: _by_tag(points) for curve, points in shown.items()}


def _by_tag(points):
    return {tag: [point[1:] for point in points if point[0] == tag] for tag in sorted({point[0] for point in points})}


def assert_equal_arrays(got, expected):
    """Two dicts, name to array, are the same bit for bit."""
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name
