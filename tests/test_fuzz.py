"""Whatever is typed, and whatever the files of a run have turned into: an answer or one sentence, never a traceback,
and never a changed file. With the checkpoints of test_checkpoints.py, 2,100 examples."""

import contextlib
import io
import json

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
from training.metrics import Records
from training.run_directory import RunDirectory


def outcome(function, *args):
    """What the function returns; None where it refuses, in one sentence."""
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
command_lines = st.lists(st.one_of(options, options, joined, words.map(lambda word: [word])), max_size=4).map(
    lambda parts: [word for part in parts for word in part if word != "--resume"]
)


@fuzz(900)
@given(argv=command_lines)
@example(argv=["--help"])
@example(argv=["--checkpoint_every", "nan"])
@example(argv=["--epochs", "9" * 5000])
@example(argv=["--ema_decay"])
@example(argv=["two\nlines"])
@example(argv=["--data_dir=-1"])
def test_command_line_is_understood_or_refused_and_saved_as_it_was_understood(tmp_path_factory, argv):
    parsed = outcome(flags.parse, argv)
    if parsed is not None:
        file = tmp_path_factory.getbasetemp() / "config.json"
        file.write_text(json.dumps({"flags": vars(parsed)}))
        assert flags.load_flags(file.parent) == parsed


ROWS = [{"epoch": step // 10, "step": step, "classifiers": {"raw": 0.5, "ema/0.9/raw": 0.75}} for step in (10, 20)]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A run directory with two evaluations and a checkpoint, of one variable."""
    path = tmp_path_factory.mktemp("fuzz")
    parsed = flags.parse(["--width", "0.5", "--ema_decay", "0.9", "0.99", "--run_dir", str(path)])
    write_json(path / "config.json", {"flags": vars(parsed), "precision": "float32", "versions": {}})
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("weights", [10])
        session.run(tf.global_variables_initializer())
        checkpoints.save(path, tf.train.Saver(), session, {"step": ROWS[-1]["step"], "rows": ROWS})
    Records(path, ROWS)
    return path


def begun(path):
    """What a resumption learns of the run: training.run_directory.SavedRun."""
    return RunDirectory(flags.parse(["--resume", "--run_dir", str(path)])).saved_run()


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
saved = st.dictionaries(st.sampled_from([*NAMES, "help"]), json_values, max_size=4)
configs = st.one_of(json_values, st.fixed_dictionaries({"flags": st.one_of(json_values, saved)}))


@fuzz(600)
@given(damage=st.one_of(damages, configs.map(lambda config: lambda _: json.dumps(config).encode())))
@example(damage=lambda _: b'{"flags": {"help": true}}')
@example(damage=lambda _: b"[" * 100_000)
@example(damage=lambda _: b'{"flags": ' * 100_000)
@example(damage=lambda _: b'{"flags": {"epochs": %s}}' % (b"9" * 5000))
def test_damaged_config_is_refused_or_read(path, damage):
    file = path / "config.json"
    with damaged(file, damage(file.read_bytes())):
        outcome(begun, path)


@fuzz(200)
@given(damage=damages)
@example(damage=lambda content: b"[" * 100_000 + content)
def test_damaged_metrics_are_refused_or_read_by_the_report_and_no_matter_to_a_resumption(path, damage):
    file = path / "metrics.jsonl"
    with damaged(file, damage(file.read_bytes())):
        read = outcome(run_files.read_run, path)
        assert read is None or isinstance(read.rows, list)
        assert outcome(begun, path) is not None
    Records(path, ROWS)
    assert read_rows(path) == ROWS
