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
from training.command import UserError
from training.files import write_json
from training.records import Records
from training.run_directory import RunDirectory


def outcome(function, *args):
    """What the function returns, or the one sentence with which it refuses."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            return function(*args)
        except UserError as error:
            sentence, status = " ".join(str(error).split()), error.status
        except SystemExit as end:
            sentence, status = stderr.getvalue().rstrip("\n"), end.code
    assert status in (0, 1, 2)
    assert status == 0 or sentence.strip()
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return None


# ---------------------------------------------------------------------------------------------------------------
# Command lines

NAMES = sorted(vars(flags.parse([])))
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
numbers = st.one_of(st.integers(), st.floats()).map(str)
choices = st.sampled_from(
    ["cifar10", "synthetic", "gpu", "cpu", "auto", "raw", "averaged", "recomputed", "warmup", "0.9", "1e-3", "5"]
)
values = st.one_of(choices, choices, numbers, words)
options = st.tuples(st.sampled_from([f"--{name}" for name in NAMES]), st.lists(values, max_size=2)).map(
    lambda option: [option[0], *option[1]]
)
joined = st.tuples(st.sampled_from(NAMES), values).map(lambda option: [f"--{option[0]}={option[1]}"])
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
def test_command_line_is_understood_or_refused(tmp_path_factory, argv):
    parsed = outcome(flags.parse, argv)
    if parsed is None:
        return
    saved = tmp_path_factory.getbasetemp() / "config.json"
    saved.write_text(json.dumps({"flags": vars(parsed)}))
    loaded = flags.load_flags(saved.parent)
    assert {name: getattr(loaded, name, None) for name in NAMES} == {
        name: getattr(parsed, name, None) for name in NAMES
    }


# ---------------------------------------------------------------------------------------------------------------
# Files of a run

ROWS = [
    {
        "epoch": step // 10,
        "step": step,
        "train_loss": 2.0,
        "raw_accuracy": 0.5,
        "ema_accuracy": 0.75,
        "classifiers": {"raw": 0.5, "ema/0.9/raw": 0.75},
    }
    for step in (10, 20)
]


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


def resumed(path):
    """What a resumption learns of the run: the flags of this process, and training.run_directory.Begun."""
    parsed = flags.parse(["--resume", "--run_dir", str(path)])
    return parsed, RunDirectory(parsed).begun()


@fuzz(300)
@given(damage=damages)
def test_damaged_config_is_refused_or_read(path, damage):
    with damaged(path / "config.json", damage((path / "config.json").read_bytes())):
        outcome(resumed, path)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
configs = st.one_of(
    json_values,
    st.dictionaries(st.sampled_from(["flags", "precision"]), json_values),
    st.dictionaries(st.sampled_from([*NAMES, "help"]), json_values, max_size=4).map(lambda saved: {"flags": saved}),
).map(json.dumps)


@fuzz(300)
@given(text=configs)
@example(text='{"flags": {"help": true}}')
@example(text="[" * 100_000)
@example(text='{"flags": ' * 100_000)
@example(text='{"flags": {"epochs": %s}}' % ("9" * 5000))
def test_config_of_other_json_is_refused_or_read(path, text):
    with damaged(path / "config.json", text.encode()):
        outcome(resumed, path)


@fuzz(200)
@given(damage=damages)
@example(damage=lambda content: b"[" * 100_000 + content)
def test_damaged_metrics_are_refused_or_read_by_the_report_and_no_matter_to_a_resumption(path, damage):
    file = path / "metrics.jsonl"
    with damaged(file, damage(file.read_bytes())):
        read = outcome(run_files.read_run, path)
        assert read is None or isinstance(read.rows, list)
        assert outcome(resumed, path) is not None
    Records(path, ROWS)
    assert read_rows(path) == ROWS
