"""The flags of train.py: what is understood, what a resumption takes and may change, and that each does what it says."""

import json
import re

import numpy as np
import pytest
from support.commands import TINY_RUN
from support.tiny import SteppedRun
from support import guide

import data
from training import flags
from training.command import UserError
from training.flags import load_config, load_flags, load_precision, parse
from training.labels import Label

# What the guide does, and this project's own choices, as its design states them; everything else is off.
DEFAULTS = {
    "dataset": "cifar10",
    "width": 1.0,
    "dropout": 0.5,
    "epochs": 20,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "lr_cooldown": 0,
    "adam_beta1": 0.5,
    "seed": 0,
    "validation_size": 0,
    "label_noise": 0.0,
    "ema_decay": ["0.998"],
    "ema_start": "initial",
    "ema_batch_stats": ["raw"],
    "eval_every": 1,
    "checkpoint_every": 10.0,
    "device": "auto",
    "strategy": "none",
    "precision": "auto",
    "xla": "auto",
}


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
    parsed = vars(parse([]))
    assert len(parsed) <= 28
    assert re.fullmatch(r".*/runs/\d{8}-\d{6}(-\d+)?", parsed.pop("run_dir"))
    off = set(parsed) - set(DEFAULTS)
    assert parsed == DEFAULTS | {name: parsed[name] for name in off}
    assert {parsed[name] for name in off} == {None, False}
    with pytest.raises(SystemExit):
        parse(["--help"])
    shown = dict(re.findall(r"^  --(\w+)\s(.*(?:\n {4}.*)*)", capsys.readouterr().out, re.MULTILINE))
    assert shown.keys() == {*parsed, "run_dir"}
    for name, value in DEFAULTS.items():
        text = " ".join(value) if isinstance(value, list) else value
        assert f"(default: {text})" in " ".join(shown[name].split())


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "ema_decay": ["1", "-0.1", "1.5", "nan", "inf", "much", "0.99999999", "+0.5", "0.5 ", "0_5", "\u0660.\u0665"],
        "ema_power": ["0", "1e-200", "0.28", "nan"],
        "width": ["0", "-1", "64", "nan", "wide"],
        "dropout": ["1", "-0.1", "nan", "some"],
        "epochs": ["0", "-1", "1.5", "many", "1000000000000000000000"],
        "batch_size": ["0", "-64", "1e2"],
        "learning_rate": ["0", "-1e-3", "inf", "nan"],
        "lr_cooldown": ["-1", "0.5"],
        "adam_beta1": ["1", "-0.5", "nan"],
        "seed": ["-1", "2147483648", "0.5"],
        "train_size": ["0", "-5", "all"],
        "test_size": ["0", "-5", "all"],
        "validation_size": ["-5", "some"],
        "label_noise": ["1", "-0.1", "nan"],
        "eval_every": ["0", "0.5"],
        "checkpoint_every": ["0", "-1", "nan", "inf", "10m", "often"],
        "devices": ["0", "two"],
        "dataset": ["mnist"],
        "device": ["tpu"],
        "precision": ["float16"],
    }.items(),
)
def test_value_out_of_range_is_refused_in_one_line_that_names_the_flag(capsys, name, values):
    for value in values:
        line = refusal(capsys, f"--{name}={value}")
        assert f"--{name}" in line
        assert value.strip() in line


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", "0.001"), ("dropout", "0"), ("epochs", "1"), ("batch_size", "1"), ("adam_beta1", "0")]
    + [("seed", "2147483647"), ("train_size", "1"), ("validation_size", "0"), ("checkpoint_every", "0.0001")],
)
def test_value_at_the_edge_of_its_range_is_taken(name, value):
    assert getattr(parse([f"--{name}", value]), name) == float(value)


@pytest.mark.parametrize("text", ["0.998", "0.9980", ".5", "9e-1", "0", "0.9999999"])
def test_decay_keeps_its_text(text):
    assert parse(["--ema_decay", text]).ema_decay == [text]


def test_the_longest_decay_is_below_one_in_float32():
    assert np.float32(flags.MAX_DECAY) == 1 > np.float32(np.nextafter(flags.MAX_DECAY, 0))


@pytest.mark.parametrize("argv", [["--decay", "0.9"], ["--ema", "0.9"], ["--epoch", "3"], ["run"], ["--resume"]])
def test_unknown_and_abbreviated_flags_and_a_resumption_of_nothing_are_refused(capsys, argv):
    assert argv[0] in refusal(capsys, *argv)


@pytest.mark.parametrize(
    "argv", [["--ema_decay", "0.9", "0.9"], ["--ema_power", "0.05", "0.0500000001"], ["--ema_batch_stats", "raw", "raw"]]
)
def test_a_value_given_twice_is_refused(capsys, argv):
    assert argv[0] in refusal(capsys, *argv)


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/reader")
    parsed = parse(["--run_dir", "here", "--data_dir=~/data"])
    assert (parsed.run_dir, parsed.data_dir) == (str(tmp_path / "here"), "/home/reader/data")


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


OTHERS = {  # another value than the default of every flag
    "dataset": ["synthetic"],
    "data_dir": ["/elsewhere"],
    "train_size": ["100"],
    "test_size": ["100"],
    "validation_size": ["10"],
    "label_noise": ["0.1"],
    "augment": [],
    "width": ["0.25"],
    "dropout": ["0.1"],
    "epochs": ["30"],
    "batch_size": ["32"],
    "learning_rate": ["1e-05"],
    "lr_cooldown": ["2"],
    "adam_beta1": ["0.9"],
    "seed": ["7"],
    "ema_decay": ["0.990", ".9"],
    "ema_start": ["warmup"],
    "ema_batch_stats": ["averaged", "raw"],
    "ema_power": ["0.1"],
    "eval_every": ["2"],
    "checkpoint_every": ["5.5"],
    "device": ["cpu"],
    "strategy": ["mirrored"],
    "devices": ["2"],
    "precision": ["bfloat16"],
    "xla": ["off"],
}


def test_a_resumption_takes_every_flag_of_the_run(saved):
    argv = [word for name, values in OTHERS.items() for word in (f"--{name}", *values)]
    run_dir = saved(*argv)
    expected = vars(parse([*argv, "--run_dir", run_dir]))
    assert vars(load_flags(run_dir)) == expected
    assert vars(resumed(run_dir)) == {**expected, "resume": True}
    assert vars(resumed(saved("--resume"))) == {**expected, "resume": True}


@pytest.mark.parametrize("name", OTHERS)
def test_a_resumption_may_change_what_does_not_shape_the_numbers_of_steps_done(saved, name):
    run_dir, argv = saved(), [f"--{name}", *OTHERS[name]]
    if name in flags.MAY_CHANGE:
        assert getattr(resumed(run_dir, *argv), name) == getattr(parse(argv), name) != getattr(parse([]), name)
    else:
        was = " ".join(flags.as_argv({name: getattr(parse([]), name)})) or f"no --{name}"
        assert was in refused(run_dir, *argv)


def test_what_may_change_is_this():
    paths, lengths = {"run_dir", "resume", "data_dir"}, {"epochs", "lr_cooldown", "eval_every", "checkpoint_every"}
    assert flags.MAY_CHANGE == {*paths, *lengths, "device", "strategy", "devices", "xla"}
    assert OTHERS.keys() | {"run_dir", "resume"} == vars(parse([])).keys()


@pytest.mark.parametrize(
    ("argv", "devices"),
    [
        ([], 2),
        (["--devices", "4"], 4),
        (["--strategy", "multiworker"], None),
        (["--strategy", "none"], None),
        (["--strategy", "multiworker", "--devices", "1"], 1),
    ],
    ids=str,
)
def test_the_devices_of_a_strategy_are_no_other_ones(saved, argv, devices):
    assert resumed(saved("--strategy", "mirrored", "--devices", "2"), *argv).devices == devices


def test_moved_run_is_resumed_where_it_lies_now(saved, tmp_path):
    saved("--width", "0.5")
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert resumed(str(moved)).run_dir == str(moved)


def test_resume_where_no_run_is_says_how_to_start_one(tmp_path):
    with pytest.raises(UserError, match=r"config\.json.*python train\.py --run_dir"):
        resumed(str(tmp_path / "none"))


@pytest.mark.parametrize(
    "content",
    ["", '{"flags": {"wid', "[]", "{}", '{"flags": 3}', '{"flags": {"width": -1}}', '{"flags": {"heigth": 1}}', "\x80"],
)
def test_damaged_config_is_called_so(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json is damaged") as caught:
        resumed(str(tmp_path))
    assert caught.value.status == 1
    assert "\n" not in str(caught.value)


def test_the_same_decay_typed_otherwise_is_refused(saved):
    """The text names variables and labels: under another they would not be found."""
    assert "--ema_decay 0.9:" in refused(saved("--ema_decay", "0.9"), "--ema_decay", "0.90")


def test_only_the_precision_that_the_run_has_anyway_may_be_typed(saved):
    run_dir = saved("--precision", "auto")
    for precision in ("auto", "float32"):
        assert resumed(run_dir, "--precision", precision).precision == precision
    assert load_precision(run_dir) == "float32"
    assert "--precision auto" in refused(run_dir, "--precision", "bfloat16")


@pytest.mark.parametrize("precision", [None, "auto", 16])
def test_config_without_the_precision_of_the_run_is_damaged(saved, precision):
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_precision(saved(precision=precision))


# ---------------------------------------------------------------------------------------------------------------
# Every flag that shapes numbers shapes them as it says


@pytest.mark.parametrize(
    ("numbers", "augment"), [(guide.NUMBERS, False), (guide.OTHERS, False), (guide.NUMBERS, True)], ids=str
)
def test_training_is_the_guides_with_these_numbers_over_two_epochs(numbers, augment):
    steps = 2 * 64 // numbers["batch_size"] - 1
    weights, shadows, logits = guide.train(numbers, augment, steps)
    typed = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    ours = SteppedRun(*typed, *(["--augment"] if augment else []), steps=0)
    for until in (ours.settings.epoch_steps, steps):
        ours.session.run(ours.graph.shuffle)
        ours.session.run(ours.graph.loop.train, {ours.graph.loop.until: until})
    got, averaged = ours.read(ours.graph.var_class), ours.shadows(ours.primary())
    for name, expected in weights.items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)
        np.testing.assert_array_equal(averaged[name], shadows[name], err_msg=name)
    np.testing.assert_array_equal(ours.logits(Label("ema", numbers["ema_decay"])), logits)


def test_the_guides_numbers_are_the_defaults():
    for name in set(guide.NUMBERS) - {"seed", "batch_size", "width"}:
        assert DEFAULTS[name] in (guide.NUMBERS[name], [guide.NUMBERS[name]])


# What must change, beyond what the test above compares: flags to the endings of variables.
CHANGES = {
    "--lr_cooldown 1 --epochs 1": "/weights",
    "--precision bfloat16": "/weights",
    "--ema_start warmup": "/ExponentialMovingAverage",
    "--ema_start unbiased": "/ExponentialMovingAverage",
}


@pytest.fixture(scope="module")
def plain():
    return SteppedRun(steps=3)


@pytest.mark.parametrize("argv", CHANGES)
def test_a_flag_changes_what_it_is_about_and_an_average_never_the_weights(plain, argv):
    expected, got = plain.everything(), SteppedRun(*argv.split(), steps=3).everything()
    changed = {name for name in expected if (expected[name] != got[name]).any()}
    assert any(name.endswith(CHANGES[argv]) for name in changed)
    assert argv.startswith("--ema") == (not any(name.endswith("/weights") for name in changed))


@pytest.mark.parametrize(
    ("argv", "train", "test", "validation"),
    [
        ([], 256, 64, None),
        (["--train_size", "100"], 100, 64, None),
        (["--test_size", "10"], 256, 10, None),
        (["--validation_size", "56"], 200, 64, 56),
    ],
    ids=str,
)
def test_sizes_are_those_typed(argv, train, test, validation):
    loaded = data.load_for(parse([*TINY_RUN, *argv]))
    assert (len(loaded.train.labels), len(loaded.test.labels)) == (train, test)
    assert (loaded.validation and len(loaded.validation.labels)) == validation


def test_every_random_draw_is_the_same_compiled_or_not():
    """Over steps that leave the weights as they are, so that nothing but the draws can tell the losses apart."""
    argv = ("--augment", "--dropout", "0.5", "--learning_rate", "1e-30")
    losses = []
    for xla in (False, True):
        run = SteppedRun(*argv, steps=0, xla=xla)
        losses.append([float(run.train(step + 1).loss) for step in range(6)])
    assert len(set(losses[0])) == 6
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
