"""The flags of train.py, parsed in this process; test_cli.py runs it as a user does."""

import re
import subprocess
import sys

import numpy as np
import pytest
from support.commands import ROOT
from training.config import parse

from training import options

# What the guide does, and this project's own choices, as its design states them; everything else is off.
DEFAULTS = {
    "dataset": "cifar10",
    "data_dir": None,
    "train_size": None,
    "test_size": None,
    "augment": False,
    "width": 1.0,
    "dropout": 0.5,
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "adam_beta1": 0.5,
    "seed": 0,
    "ema_decay": [0.998],
    "ema_start": "initial",
    "ema_batch_stats": ["raw"],
    "resume": False,
    "eval_every": 1,
    "device": "auto",
    "precision": "auto",
}


def refusal(capsys, *argv):
    """The one line with which a wrong command line is refused."""
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert caught.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert len(lines) == 1, output.err
    return lines[0]


# ---------------------------------------------------------------------------------------------------------------
# Defaults and ranges


@pytest.mark.parametrize("name", DEFAULTS)
def test_default(name):
    assert getattr(parse([]), name) == DEFAULTS[name]


def test_every_switch_is_off_by_default():
    assert not [name for name, value in vars(parse([])).items() if value is True]


def test_default_run_directory_is_new_under_runs():
    assert parse([]).run_dir.startswith("runs/2")


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "ema_decay": ["1", "-0.1", "1.5", "nan", "inf", "much"],
        "width": ["0", "-1", "65", "nan", "wide"],
        "dropout": ["1", "-0.1", "nan", "some"],
        "epochs": ["0", "-1", "1.5", "many"],
        "batch_size": ["0", "-64", "1e2"],
        "learning_rate": ["0", "-1e-3", "inf", "nan"],
        "adam_beta1": ["1", "-0.5", "nan"],
        "seed": ["-1", "2147483648", "0.5"],
        "train_size": ["0", "-5", "all"],
        "test_size": ["0", "-5", "all"],
        "eval_every": ["0", "0.5"],
        "dataset": ["mnist"],
        "device": ["tpu"],
        "precision": ["float16"],
        "checkpoint_every": ["0", "1.5", "m", "0m", "nanm", "often"],
        "label_noise": ["1", "-0.1", "nan"],
        "lr_cooldown": ["-1", "0.5"],
    }.items(),
)
def test_value_out_of_range_is_refused_in_one_line_that_names_the_flag(capsys, name, values):
    for value in values:
        line = refusal(capsys, f"--{name}={value}")
        assert f"--{name}" in line
        assert value in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ema_decay", "0"),
        ("ema_decay", "0.99999"),
        ("width", "0.001"),
        ("dropout", "0"),
        ("epochs", "1"),
        ("batch_size", "1"),
        ("adam_beta1", "0"),
        ("seed", "2147483647"),
        ("train_size", "1"),
    ],
)
def test_value_at_the_edge_of_its_range_is_taken(name, value):
    parsed = getattr(parse([f"--{name}", value]), name)
    assert parsed in (float(value), [float(value)])


@pytest.mark.parametrize("text", ["500", "10m", "0.5m"])
def test_interval_is_steps_or_minutes(text):
    interval = parse(["--checkpoint_every", text]).checkpoint_every
    assert str(interval) == text
    assert (interval.steps, interval.seconds) == {
        "500": (500, float("inf")),
        "10m": (None, 600),
        "0.5m": (None, 30),
    }[text]


@pytest.mark.parametrize("argv", [["--decay", "0.9"], ["--ema", "0.9"], ["--epoch", "3"], ["run"]])
def test_unknown_and_abbreviated_flags_are_refused(capsys, argv):
    assert argv[0] in refusal(capsys, *argv)


@pytest.mark.parametrize("text", ["0.998", "0.9980", ".5", "9e-1", "0"])
def test_decay_keeps_its_text(text):
    decay = options.Decay(text)
    assert str(decay) == f"{decay}" == text
    assert decay == float(text)


def test_resume_without_a_run_directory_is_refused(capsys):
    assert "--run_dir" in refusal(capsys, "--resume")


@pytest.mark.parametrize("text", ["+0.5", "0.5 ", "0_5", "\u0660.\u0665", "-0.0"])
def test_a_decay_that_could_not_name_a_variable_is_refused(text, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(["--ema_decay", text])
    assert exit_info.value.code == 2
    assert "--ema_decay" in capsys.readouterr().err


def test_a_decay_that_is_one_in_float32_is_refused():
    assert np.float32(options.MAX_DECAY) == 1 > np.float32(np.nextafter(options.MAX_DECAY, 0))
    with pytest.raises(SystemExit):
        parse(["--ema_decay", "0.99999999"])
    assert parse(["--ema_decay", "0.9999999"]).ema_decay == [0.9999999]


@pytest.mark.parametrize("width", ["0", "1e-200", "0.28", "nan"])
def test_power_widths_that_no_exponent_has_are_refused(width):
    with pytest.raises(SystemExit):
        parse(["--ema_power", width])


def test_power_widths_with_one_name_are_refused():
    with pytest.raises(SystemExit):
        parse(["--ema_power", "0.05", "0.0500000001"])


# ---------------------------------------------------------------------------------------------------------------
# Help


def test_help_imports_no_tensorflow_and_shows_every_flag_with_its_default():
    script = (
        "import sys, runpy, atexit\n"
        "atexit.register(lambda: print('imported', {'tensorflow', 'numpy'} & set(sys.modules)))\n"
        "sys.argv = ['train.py', '--help']\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0
    assert result.stdout.endswith("imported set()\n")
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=-)", result.stdout)]
    shown = {entry.split()[0]: entry for entry in entries}
    parsed = vars(parse([]))
    assert set(shown) >= {f"--{name}" for name in parsed}
    for name in DEFAULTS:
        if DEFAULTS[name] is not False:  # a switch is off unless given
            assert "(default: " in shown[f"--{name}"]
    for name in ("epochs", "batch_size", "learning_rate", "width", "dropout", "seed", "dataset"):
        assert f"(default: {DEFAULTS[name]})" in shown[f"--{name}"]
    assert "0.998" in shown["--ema_decay"]
