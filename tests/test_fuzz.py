"""Whatever is typed, and whatever the files of a run have turned into: an answer or one sentence, never a traceback,
and never a changed file. 2,100 examples in all."""

import contextlib
import io
import json
import logging

import flags
import pytest
import runs
import tensorflow.compat.v1 as tf
from errors import UserError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from analysis import finished


def fuzz(examples):
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


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


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------------
# Command lines

NAMES = sorted(vars(flags.parse([])))
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
numbers = st.one_of(st.integers(), st.floats()).map(str)
choices = st.sampled_from(
    ["cifar10", "synthetic", "gpu", "cpu", "auto", "raw", "averaged", "recomputed", "warmup", "0.9", "1e-3", "10m", "5"]
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
@example(argv=["--checkpoint_every", "m"])
@example(argv=["--checkpoint_every", "nanm"])
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
    {"epoch": step // 10, "step": step, "train_loss": 2.0, "raw_accuracy": 0.5, "ema_accuracy": 0.75}
    for step in (10, 20)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A run directory with two evaluations and two checkpoints, of one variable."""
    path = tmp_path_factory.mktemp("fuzz")
    parsed = flags.parse(["--width", "0.5", "--ema_decay", "0.9", "0.99", "--run_dir", str(path)])
    runs.write_json(path / "config.json", {"flags": vars(parsed), "precision": "float32", "versions": {}})
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("weights", [10])
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver()
        for count in (1, 2):
            runs.save_checkpoint(path, saver, session, {"step": ROWS[count - 1]["step"], "rows": ROWS[:count]})
    runs.write_whole(path / "metrics.jsonl", "".join(f"{json.dumps(row)}\n" for row in ROWS).encode())
    return path


def cut(content, place, _):
    return content[: place % (len(content) + 1)]


def flip(content, place, noise):
    changed = bytearray(content)
    changed[place % len(content)] ^= 1 + noise[0] % 255 if noise else 1
    return bytes(changed)


def insert(content, place, noise):
    place %= len(content) + 1
    return content[:place] + noise + content[place:]


def overwrite(content, place, noise):
    place %= len(content) + 1
    return content[:place] + noise + content[place + len(noise) :]


damages = st.tuples(
    st.sampled_from([cut, flip, insert, overwrite]), st.integers(0, 10**6), st.binary(min_size=1, max_size=20)
)


@contextlib.contextmanager
def damaged(file, content):
    """Within it, the file holds `content`; afterwards it is checked that it still does, and that no other changed."""
    original = file.read_bytes()
    file.write_bytes(content)
    before = contents(file.parents[0])
    try:
        yield content != original
        assert contents(file.parents[0]) == before
    finally:
        file.write_bytes(original)


def resumed(path):
    parsed = flags.parse(["--resume", "--run_dir", str(path)])
    runs.check_directory(parsed.run_dir, resume=True)
    return parsed


@fuzz(300)
@given(damage=damages)
def test_damaged_config_is_refused_or_read(path, damage):
    function, place, noise = damage
    with damaged(path / "config.json", function((path / "config.json").read_bytes(), place, noise)):
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


class Saver:
    """Records what it is told to restore."""

    def restore(self, _, prefix):
        self.restored = prefix


FILES = ("state.json", "SHA256SUMS", "model.index", "model.data-00000-of-00001")


@fuzz(400)
@given(newest=st.booleans(), name=st.sampled_from(FILES), damage=damages)
def test_damaged_checkpoint_is_never_restored(path, newest, name, damage):
    function, place, noise = damage
    older, newer = runs.checkpoints(path)
    file = (newer if newest else older) / name
    logging.disable(logging.WARNING)
    try:
        with damaged(file, function(file.read_bytes(), place, noise)) as changed:
            saver = Saver()
            state = runs.restore_checkpoint(path, saver, None)
            expected = older if newest and changed else newer
            assert saver.restored == str(expected / "model")
            assert state["rows"] == ROWS[: 1 if expected == older else 2]
            assert outcome(resumed, path) is not None
    finally:
        logging.disable(logging.NOTSET)


@fuzz(200)
@given(damage=damages)
@example(damage=(insert, 0, b"[" * 100_000))
def test_damaged_metrics_are_refused_or_read_by_the_report_and_no_matter_to_a_resumption(path, damage):
    function, place, noise = damage
    file = path / "metrics.jsonl"
    with damaged(file, function(file.read_bytes(), place, noise)):
        read = outcome(finished.read_run, path)
        assert read is None or isinstance(read.rows, list)
        assert outcome(resumed, path) is not None
    runs.Metrics(path, ROWS)
    assert [json.loads(line) for line in file.read_text().splitlines()] == ROWS
