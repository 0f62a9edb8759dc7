"""The flags of train.py: what is understood, what a resumption may change, and that each does what it says."""

import json
import re

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from support import guide
from support.commands import TINY_RUN
from support.files import assert_equal_arrays
from support.tiny import SteppedRun, dataset, initialise

import data
import model
from training import flags
from training.cli import UserError
from training.flags import load_flags, load_precision, parse
from training.labels import Label

FLAGS = {  # by their names: the default, another value, and values that are refused, as typed
    "dataset": ("cifar10", "synthetic", "mnist"),
    "data_dir": (None, "/", "gs://a/b"),
    "train_size": (None, "100", "0 -5 all"),
    "test_size": (None, "100", "0 -5 all"),
    "validation_size": (0, "10", "-5 some"),
    "label_noise": (0.0, "0.1", "1 -0.1 nan"),
    "augment": (False, "", "yes"),
    "width": (1.0, "0.25", "0 -1 64 nan wide"),
    "dropout": (0.5, "0.1", "1 -0.1 nan some"),
    "epochs": (20, "30", "0 -1 1.5 many 1000000000000000000000"),
    "batch_size": (64, "32", "0 -64 1e2"),
    "learning_rate": (1e-3, "1e-05", "0 -1e-3 inf nan"),
    "lr_cooldown": (0, "2", "-1 0.5"),
    "adam_beta1": (0.5, "0.9", "1 -0.5 nan 0.99999999"),
    "seed": (0, "7", "-1 2147483648 0.5"),
    "ema_decay": (
        ["0.998"],
        "0.990 .9",
        "1 -0.1 1.5 nan inf much 0.99999999 +0.5 0_5 \u0660.\u0665 -0.0 0.5" + 40 * "0",
    ),
    "ema_start": ("initial", "warmup", "zero"),
    "ema_batch_stats": (["raw"], "averaged raw", "mean"),
    "ema_power": (None, "0.1 0.05", "0 1e-200 0.28 0.27999999 nan"),
    "run_dir": (None, "", "gs://a/b"),
    "resume": (False, "", "yes"),
    "eval_every": (1, "2", "0 0.5"),
    "checkpoint_every": (10.0, "5.5", "0 -1 nan inf 10m often"),
    "device": ("auto", "cpu", "tpu"),
    "strategy": ("none", "mirrored", "all"),
    "devices": (None, "2", "0 two 1000"),
    "precision": ("auto", "bfloat16", "float16"),
    "xla": ("auto", "off", "yes"),
}
ANOTHER = {name: another.split() for name, (_, another, _) in FLAGS.items() if name not in ("run_dir", "resume")}


def refusal(capsys, *argv):
    """The one line with which a wrong command line is refused."""
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


def test_every_flag_has_its_default_and_help_says_it(capsys):
    assert vars(parse([])) == {name: default for name, (default, _, _) in FLAGS.items()}
    assert len(FLAGS) <= 28
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = dict(re.findall(r"^  --(\w+)\s(.*(?:\n {4}.*)*)", capsys.readouterr().out, re.MULTILINE))
    assert shown.keys() == FLAGS.keys()
    for name, (default, _, _) in FLAGS.items():
        text = " ".join(default) if isinstance(default, list) else default
        assert text is None or text is False or f"(default: {text})" in " ".join(shown[name].split())


@pytest.mark.parametrize("name", FLAGS)
def test_value_out_of_range_is_refused_in_one_line_that_names_the_flag(capsys, name):
    for value in FLAGS[name][2].split():
        line = refusal(capsys, f"--{name}={value}")
        assert f"--{name}" in line
        assert value in line


def test_value_at_the_edge_of_its_range_is_taken():
    edges = "--width=0.001 --dropout=0 --epochs=1 --adam_beta1=0 --seed=2147483647 --train_size=1 --validation_size=0"
    for argument in [*edges.split(), "--batch_size=1", "--checkpoint_every=0.0001", "--devices=1"]:
        name, value = argument.removeprefix("--").split("=")
        assert getattr(parse([argument]), name) == float(value)


def test_decay_keeps_its_text_and_is_below_one_in_float32():
    texts = ["0.9980", ".5", "9e-1", "0", "0.9999999"]
    assert parse(["--ema_decay", *texts]).ema_decay == texts
    assert np.float32(flags.MAX_DECAY) == 1 > np.float32(np.nextafter(flags.MAX_DECAY, 0))


UNKNOWN = ["--decay 0.9", "--ema 0.9", "--epoch 3", "run"]
TWICE = ["--ema_decay 0.9 0.90", "--ema_power 0.05 0.0500000001", "--ema_batch_stats raw raw"]


@pytest.mark.parametrize("line", [*UNKNOWN, *TWICE, "--resume"])
def test_what_is_no_flag_or_given_twice_and_a_resumption_of_nothing_are_refused(capsys, line):
    assert line.split()[0] in refusal(capsys, *line.split())


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/reader")
    parsed = parse(["--run_dir", "a\u200cb", "--data_dir=~/data\u00a0here"])
    assert (parsed.run_dir, parsed.data_dir) == (str(tmp_path / "a\u200cb"), "/home/reader/data\u00a0here")


# ---------------------------------------------------------------------------------------------------------------
# config.json, and what a resumption takes from it


@pytest.fixture
def saved(tmp_path):
    """Saves the flags of a command line as a run does; returns the run directory."""

    def save(*argv, **config):
        made = vars(parse([*argv, "--run_dir", str(tmp_path)]))
        (tmp_path / "config.json").write_text(json.dumps({"flags": made, "precision": "float32", **config}))
        return str(tmp_path)

    return save


def resumed(run_dir, *argv):
    return parse(["--resume", "--run_dir", run_dir, *argv])


def refused(run_dir, *argv):
    """The sentence with which it is refused to resume a run with other flags."""
    with pytest.raises(UserError) as caught:
        resumed(run_dir, *argv)
    assert caught.value.status == 2
    assert run_dir in str(caught.value)
    return str(caught.value)


def test_a_resumption_takes_every_flag_of_the_run(saved):
    argv = [word for name, values in ANOTHER.items() for word in (f"--{name}", *values)]
    run_dir = saved(*argv)
    expected = vars(parse([*argv, "--run_dir", run_dir]))
    assert vars(load_flags(run_dir)) == expected
    assert vars(resumed(run_dir)) == {**expected, "resume": True}
    assert vars(resumed(saved("--resume"))) == {**expected, "resume": True}


SHAPES_NO_STEP_DONE = {"epochs", "lr_cooldown", "eval_every", "checkpoint_every"}
SHAPES_NO_NUMBER = {"run_dir", "resume", "data_dir", "device", "strategy", "devices", "xla"}


@pytest.mark.parametrize("name", ANOTHER)
def test_a_resumption_may_change_what_does_not_shape_the_numbers_of_steps_done(saved, name):
    run_dir, argv = saved(), [f"--{name}", *ANOTHER[name]]
    if name in SHAPES_NO_STEP_DONE | SHAPES_NO_NUMBER:
        assert getattr(resumed(run_dir, *argv), name) == getattr(parse(argv), name) != FLAGS[name][0]
    else:
        was = " ".join(flags.as_argv({name: FLAGS[name][0]})) or f"no --{name}"
        assert was in refused(run_dir, *argv)


@pytest.mark.parametrize(
    ("argv", "devices"), [("", 2), ("--devices 4", 4), ("--strategy none", None), ("--strategy none --devices 1", 1)]
)
def test_the_devices_of_a_strategy_are_no_other_ones(saved, argv, devices):
    assert resumed(saved("--strategy", "mirrored", "--devices", "2"), *argv.split()).devices == devices


def test_the_same_decay_typed_otherwise_is_refused(saved):
    """The text names variables and labels: under another they would not be found."""
    assert "--ema_decay 0.9:" in refused(saved("--ema_decay", "0.9"), "--ema_decay", "0.90")


def test_only_the_precision_that_the_run_has_anyway_may_be_typed(saved):
    run_dir = saved("--precision", "auto")
    for precision in ("auto", "float32"):
        assert resumed(run_dir, "--precision", precision).precision == precision
    assert load_precision(run_dir) == "float32"
    assert "--precision auto" in refused(run_dir, "--precision", "bfloat16")


def test_moved_run_is_resumed_where_it_lies_now_and_moved_data_are_asked_for(saved, tmp_path):
    saved("--data_dir", "/nowhere")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    with pytest.raises(UserError, match=r"/nowhere.*--data_dir"):
        resumed(str(moved))
    assert resumed(str(moved), "--data_dir", "/").run_dir == str(moved)


def test_resume_where_no_run_is_says_how_to_start_one(tmp_path):
    with pytest.raises(UserError, match=r"config\.json.*python train\.py --run_dir"):
        resumed(str(tmp_path / "none"))


OF_NO_FLAGS = ["", "[]", "{}", "\x80", '{"flags": {"wid'] + [
    json.dumps({"flags": saved}) for saved in (3, {"width": -1}, {"heigth": 1})
]
OF_NO_PRECISION = [json.dumps({"flags": {}, "precision": precision}) for precision in (None, "auto", 16)]


@pytest.mark.parametrize("content", OF_NO_FLAGS + OF_NO_PRECISION)
def test_damaged_config_is_called_so(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json is damaged") as caught:
        load_precision(tmp_path) if content in OF_NO_PRECISION else resumed(str(tmp_path))
    assert caught.value.status == 1
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------
# Every flag that shapes numbers shapes them as it says


OTHERS = "--seed 4 --batch_size 8 --learning_rate 3e-3 --adam_beta1 0.9 --dropout 0.25 --ema_decay 0.9 --width 0.04"


@pytest.mark.parametrize("argv", [[], [*OTHERS.split(), "--augment"]], ids=["guide", "others"])
def test_training_is_the_guides_with_these_numbers_over_two_epochs(argv):
    ours = SteppedRun(*argv, steps=0)
    steps = 2 * ours.settings.epoch_steps - 1
    typed = parse([*TINY_RUN, "--batch_size", "16", "--seed", "3", *argv])
    weights, shadows, logits = guide.train(typed, steps)
    for until in (ours.settings.epoch_steps, steps):
        ours.session.run(ours.graph.shuffle)
        ours.session.run(ours.graph.loop.train, {ours.graph.loop.until: until})
    assert_equal_arrays(ours.read(ours.graph.var_class), weights)
    assert_equal_arrays(ours.shadows(ours.primary()), shadows)
    np.testing.assert_array_equal(ours.logits(Label("ema", typed.ema_decay[0])), logits)


@pytest.fixture(scope="module")
def plain():
    return SteppedRun(steps=3).everything()


@pytest.mark.parametrize("argv", [["--precision", "bfloat16"], ["--ema_start", "warmup"]], ids=lambda argv: argv[0])
def test_a_flag_changes_what_it_is_about_and_an_average_never_the_weights(plain, argv):
    got = SteppedRun(*argv, steps=3).everything()
    changed = {name.rpartition("/")[2] for name in plain if (plain[name] != got[name]).any()}
    assert ("weights" in changed) == (argv[0] == "--precision")
    assert "ExponentialMovingAverage" in changed


def test_every_random_draw_of_a_step_is_the_same_compiled_or_not(session):
    batches = data.Batches(dataset().train, 16, 3, tf.train.get_or_create_global_step(), True)
    now = tf.placeholder(tf.int64, [])

    def draw(now):
        images, labels, seed = batches.local_batch(now)
        return model.dropout(images, phase=True, rate=0.5, seed=seed), labels

    both = draw(now), tf2.function(draw, jit_compile=True, autograph=False)(now)
    initialise(session)
    session.run(batches.shuffle)
    drawn = [session.run(both, {now: step}) for step in range(4)]
    for plain, compiled in drawn:
        for array, other in zip(plain, compiled, strict=True):
            np.testing.assert_allclose(array, other, rtol=1e-6)  # pixels are rounded otherwise
    assert len({plain[0].tobytes() for plain, _ in drawn}) == 4
