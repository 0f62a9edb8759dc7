"""The flags of train.py: values, changes on resume, and their effect on the numbers."""

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

FLAGS = {  # name: (default, another value, refused values), as typed
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
    "replicas": (None, "2", "0 two 1000"),
    "precision": ("auto", "bfloat16", "float16"),
    "xla": ("auto", "off", "yes"),
}
CHANGED = {name: another.split() for name, (_, another, _) in FLAGS.items() if name not in ("run_dir", "resume")}


def usage_error(capsys, *argv):
    """Returns the one line that refuses a command line."""
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    return line


def test_help_shows_every_default(capsys):
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
def test_invalid_value_is_refused(capsys, name):
    for value in FLAGS[name][2].split():
        line = usage_error(capsys, f"--{name}={value}")
        assert f"--{name}" in line
        assert value in line


def test_limits_are_accepted():
    edges = "--width=0.001 --dropout=0 --epochs=1 --adam_beta1=0 --seed=2147483647 --train_size=1 --validation_size=0"
    for argument in [*edges.split(), "--batch_size=1", "--checkpoint_every=0.0001", "--replicas=1"]:
        name, value = argument.removeprefix("--").split("=")
        assert getattr(parse([argument]), name) == float(value)


def test_decay_keeps_its_text():
    texts = ["0.9980", ".5", "9e-1", "0", "0.9999999"]
    assert parse(["--ema_decay", *texts]).ema_decay == texts
    assert np.float32(flags.MAX_DECAY) == 1 > np.float32(np.nextafter(flags.MAX_DECAY, 0))


def test_similar_flag_is_suggested(capsys):
    assert "--ema_decay" in usage_error(capsys, "--ema_decey", "0.9")


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/reader")
    parsed = parse(["--run_dir", "a b [1]", "--data_dir=~/data"])
    assert (parsed.run_dir, parsed.data_dir) == (str(tmp_path / "a b [1]"), "/home/reader/data")


# ---------------------------------------------------------------------------------------------------------------
# Resuming


@pytest.fixture
def saved(tmp_path):
    """Function: saves the flags of a command line as a run does; returns the run directory."""

    def save(*argv):
        config = {"flags": vars(parse([*argv, "--run_dir", str(tmp_path)])), "precision": "float32"}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return str(tmp_path)

    return save


def resumed(run_dir, *argv):
    return parse(["--resume", "--run_dir", run_dir, *argv])


def assert_refused(run_dir, argv, named):
    with pytest.raises(UserError) as caught:
        resumed(run_dir, *argv)
    assert caught.value.status == 2
    assert run_dir in str(caught.value)
    assert named in str(caught.value)


def test_resume_uses_every_saved_flag(saved):
    argv = [word for name, values in CHANGED.items() for word in (f"--{name}", *values)]
    run_dir = saved(*argv)
    expected = vars(parse([*argv, "--run_dir", run_dir + "x"])) | {"run_dir": run_dir}
    assert vars(load_flags(run_dir)) == expected
    assert vars(resumed(run_dir)) == {**expected, "resume": True}


def test_every_flag_may_change_or_not():
    assert {action.dest for action in flags.build_parser()._actions} - {"help"} == FLAGS.keys()
    assert FLAGS.keys() >= flags.RESUMABLE_FLAGS


@pytest.mark.parametrize("name", CHANGED)
def test_resume_changes_only_resumable_flags(saved, name):
    run_dir, argv = saved(), [f"--{name}", *CHANGED[name]]
    if name in flags.RESUMABLE_FLAGS:
        assert getattr(resumed(run_dir, *argv), name) == getattr(parse(argv), name) != FLAGS[name][0]
    else:
        assert_refused(run_dir, argv, f"--{name}")


@pytest.mark.parametrize(
    ("argv", "replicas"), [("", 2), ("--replicas 4", 4), ("--strategy none", None), ("--strategy none --replicas 1", 1)]
)
def test_replicas_belong_to_their_strategy(saved, argv, replicas):
    assert resumed(saved("--strategy", "mirrored", "--replicas", "2"), *argv.split()).replicas == replicas


def test_decay_is_compared_as_text(saved):
    """The text is in the names of variables."""
    assert_refused(saved("--ema_decay", "0.9"), ["--ema_decay", "0.90"], "--ema_decay 0.9:")


def test_resume_keeps_the_resolved_precision(saved):
    run_dir = saved("--precision", "auto")
    for precision in ("auto", "float32"):
        assert resumed(run_dir, "--precision", precision).precision == precision
    assert load_precision(run_dir) == "float32"
    assert_refused(run_dir, ["--precision", "bfloat16"], "--precision auto")


# ---------------------------------------------------------------------------------------------------------------
# The effect of the flags on the numbers


OTHERS = "--seed 4 --batch_size 8 --learning_rate 3e-3 --adam_beta1 0.9 --dropout 0.25 --ema_decay 0.9 --width 0.04"


@pytest.mark.parametrize("argv", [[], [*OTHERS.split(), "--augment"]], ids=["guide", "others"])
def test_training_equals_the_guide(argv):
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
def test_averages_never_change_the_weights(plain, argv):
    got = SteppedRun(*argv, steps=3).everything()
    changed = {name.rpartition("/")[2] for name in plain if (plain[name] != got[name]).any()}
    assert ("weights" in changed) == (argv[0] == "--precision")
    assert "ExponentialMovingAverage" in changed


def test_random_draws_are_equal_compiled(session):
    batches = data.Batches(dataset().train, 16, 3, tf.train.get_or_create_global_step(), True)
    step = tf.placeholder(tf.int64, [])

    def draw(step):
        images, labels, seed = batches.local_batch(step)
        return model.dropout(images, phase=True, rate=0.5, seed=seed), labels

    both = draw(step), tf2.function(draw, jit_compile=True, autograph=False)(step)
    initialise(session)
    session.run(batches.shuffle)
    drawn = [session.run(both, {step: number}) for number in range(4)]
    for plain, compiled in drawn:
        for expected, array in zip(plain, compiled, strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-6)  # XLA rounds pixels differently
    assert len({plain[0].tobytes() for plain, _ in drawn}) == 4


def test_former_name_of_replicas_is_read(tmp_path):
    config = {"flags": {"strategy": "mirrored", "devices": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert flags.load_flags(tmp_path).replicas == 2


def test_file_of_killed_start_is_no_obstacle(tmp_path):
    (tmp_path / ".config.json.123").touch()
    flags.check_new(tmp_path)
