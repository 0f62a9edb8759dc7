"""Random command lines and corrupt files: an answer or one sentence, never a traceback or a changed file."""

import contextlib
import io
import json

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import example, given
from hypothesis import strategies as st
from support.damage import damaged, damages, fuzz
from support.files import read_rows

from analysis import run_files
from training import checkpoints, flags
from training.cli import UserError, in_one_line
from training.files import write_json
from training.metrics import MetricsWriter
from training.run_directory import load_saved_run


def outcome(function, *args):
    """Returns the function's value, or None if it is refused in one sentence."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            return function(*args)
        except UserError as error:
            sentence, status = in_one_line(error), error.status
        except SystemExit as end:
            sentence, status = stderr.getvalue(), end.code
    assert status in (0, 1, 2)
    assert status == 0 or len(sentence.splitlines()) == 1
    return None


NAMES = sorted(vars(flags.parse([])))
CHOICES = ["cifar10", "synthetic", "gpu", "cpu", "auto", "raw", "averaged", "recomputed", "warmup", "0.9", "1e-3", "5"]
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
values = st.one_of(st.sampled_from(2 * CHOICES), st.integers().map(str), st.floats().map(str), words)
options = st.builds(lambda name, values: [f"--{name}", *values], st.sampled_from(NAMES), st.lists(values, max_size=2))
joined = st.builds(lambda name, value: [f"--{name}={value}"], st.sampled_from(NAMES), values)
parts = st.lists(st.one_of(options, options, joined, words.map(lambda word: [word])), max_size=4)
command_lines = parts.map(lambda parts: [word for part in parts for word in part if word != "--resume"])


@fuzz(600)
@given(argv=command_lines)
@example(argv=["--help"])
@example(argv=["--checkpoint_every", "nan"])
@example(argv=["--epochs", "9" * 5000])
@example(argv=["--ema_decay"])
@example(argv=["two\nlines"])
@example(argv=["--data_dir=-1"])
def test_command_line_is_refused_or_saved(tmp_path_factory, argv):
    parsed = outcome(flags.parse, argv)
    if parsed is not None:
        file = tmp_path_factory.getbasetemp() / "config.json"
        file.write_text(json.dumps({"flags": vars(parsed)}))
        assert flags.load_flags(file.parent) == parsed


def row(step):
    accuracies = {"raw_accuracy": 0.5, "ema_accuracy": 0.75, "classifiers": {"raw": 0.5, "ema/0.9/raw": 0.75}}
    return {"epoch": step // 10, "step": step} | accuracies


ROWS = [row(10), row(20)]
SHAPE = [7, 5]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Run directory with two evaluations, each with a checkpoint of two variables."""
    path = tmp_path_factory.mktemp("fuzz")
    parsed = flags.parse(["--width", "0.5", "--ema_decay", "0.9", "0.99", "--run_dir", str(path)])
    write_json(path / "config.json", {"flags": vars(parsed), "precision": "float32", "versions": {}})
    with tf.Graph().as_default(), tf.Session() as session:
        weights = tf.get_variable("weights", SHAPE)
        step = tf.get_variable("global_step", [], tf.int64)
        for count in (1, 2):
            weights.load(np.full(SHAPE, count), session)
            step.load(10 * count, session)
            checkpoints.save(path, tf.train.Saver(), session, {"step": 10 * count, "rows": ROWS[:count]})
    MetricsWriter(path, ROWS)
    return path


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
saved = st.dictionaries(st.sampled_from(NAMES), json_values, max_size=4)
configs = st.one_of(json_values, st.fixed_dictionaries({"flags": st.one_of(json_values, saved)}))


@fuzz(400)
@given(damage=st.one_of(damages, configs.map(lambda config: lambda _: json.dumps(config).encode())))
@example(damage=lambda _: b'{"flags": {"epochs": %s}}' % (b"9" * 5000))
def test_corrupt_config_is_refused_or_read(path, damage):
    file = path / "config.json"
    with damaged(file, damage(file.read_bytes())):
        outcome(load_saved_run, path)


@fuzz(200)
@given(damage=damages)
def test_corrupt_metrics_are_refused_or_replaced(path, damage):
    file = path / "metrics.jsonl"
    with damaged(file, damage(file.read_bytes())):
        run = outcome(run_files.read_run, path)
        assert run is None or isinstance(run.rows, list)
        assert outcome(load_saved_run, path) is not None
    MetricsWriter(path, ROWS)
    assert read_rows(path) == ROWS


@fuzz(400)
@given(name=st.sampled_from(["state.json", "model.index", "model.data-00000-of-00001"]), damage=damages)
def test_corrupt_checkpoint_is_skipped(path, name, damage):
    file = checkpoints.list_checkpoints(path)[-1] / name
    with damaged(file, damage(file.read_bytes())):
        values, state = checkpoints.read(path)
    assert values["global_step"] == state["step"]
    assert isinstance(state["rows"], list)  # state.json has no checksum
    np.testing.assert_array_equal(values["weights"], np.full(SHAPE, state["step"] // 10))
