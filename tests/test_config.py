"""config.json, and what a resumption takes from it: the flags of the run, and which of them may change."""

import json

import pytest
from training.config import load_config, load_flags, load_precision, parse, saved_flags
from training.errors import UserError


@pytest.fixture
def saved(tmp_path):
    """Saves the flags of a command line as a run does; returns the run directory."""

    def save(*argv):
        flags = parse([*argv, "--run_dir", str(tmp_path)])
        (tmp_path / "config.json").write_text(json.dumps({"flags": saved_flags(flags), "precision": "float32"}))
        return str(tmp_path)

    return save


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--width", "0.25", "--augment", "--learning_rate", "1e-05", "--train_size", "100", "--precision", "float32"],
        ["--ema_decay", "0.9", "0.99", "--ema_batch_stats", "averaged", "raw"],
        ["--ema_horizon", "1", "--seed", "7"],
    ],
    ids=["defaults", "many", "lists", "horizon"],
)
def test_resume_takes_the_flags_of_the_run(saved, argv):
    run_dir = saved(*argv)
    expected = {**vars(parse([*argv, "--run_dir", run_dir])), "resume": True}
    assert vars(parse(["--resume", "--run_dir", run_dir])) == expected


def test_resumed_run_can_be_resumed(saved):
    run_dir = saved("--width", "0.5")
    assert parse(["--resume", "--run_dir", saved("--resume")]).width == 0.5
    assert parse(["--resume", "--run_dir", run_dir, "--width", "0.5"]).width == 0.5


@pytest.mark.parametrize(
    "argv",
    [
        ["--epochs", "30"],
        ["--device", "cpu"],
        ["--data_dir", "/elsewhere"],
        ["--eval_every", "2"],
        ["--snapshots", "3"],
    ],
    ids=lambda argv: argv[0],
)
def test_resume_may_change_what_does_not_shape_the_numbers(saved, argv):
    parsed = parse(["--resume", "--run_dir", saved("--width", "0.5"), *argv])
    assert str(getattr(parsed, argv[0][2:])) == argv[1]
    assert parsed.width == 0.5


@pytest.mark.parametrize(
    ("argv", "was"),
    [
        (["--width", "0.25"], "--width 0.5"),
        (["--seed", "1"], "--seed 0"),
        (["--dropout", "0.1"], "--dropout 0.5"),
        (["--learning_rate", "0.1"], "--learning_rate 0.001"),
        (["--ema_decay", "0.9"], "--ema_decay 0.998"),
        (["--dataset", "synthetic"], "--dataset cifar10"),
        (["--augment"], "no --augment"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_resume_refuses_another_value_and_names_the_one_it_was(saved, argv, was):
    run_dir = saved("--width", "0.5")
    with pytest.raises(UserError) as caught:
        parse(["--resume", "--run_dir", run_dir, *argv])
    assert caught.value.status == 2
    assert was in str(caught.value)
    assert run_dir in str(caught.value)


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
    run_dir = saved("--strategy", "mirrored", "--devices", "2")
    assert parse(["--resume", "--run_dir", run_dir, *argv]).devices == devices


def test_moved_run_is_resumed_where_it_lies_now(saved, tmp_path):
    saved("--width", "0.5")
    moved = tmp_path.with_name("moved")
    tmp_path.rename(moved)
    assert parse(["--resume", "--run_dir", str(moved)]).run_dir == str(moved)


def test_resume_where_no_run_is_says_how_to_start_one(tmp_path):
    with pytest.raises(UserError, match=r"no .*config\.json.*python train\.py --run_dir"):
        parse(["--resume", "--run_dir", str(tmp_path / "none")])


@pytest.mark.parametrize(
    "content",
    ["", '{"flags": {"wid', "[]", "{}", '{"flags": 3}', '{"flags": {"width": -1}}', '{"flags": {"heigth": 1}}', "\x80"],
)
def test_damaged_config_is_told(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json is damaged") as caught:
        parse(["--resume", "--run_dir", str(tmp_path)])
    assert caught.value.status == 1
    assert "\n" not in str(caught.value)


def test_resuming_with_the_same_decay_typed_otherwise_is_refused(saved):
    """The text names variables and labels: under another they would not be found."""
    run_dir = saved("--ema_decay", "0.9")
    with pytest.raises(UserError, match=r"--ema_decay 0\.9:"):
        parse(["--resume", "--run_dir", str(run_dir), "--ema_decay", "0.90"])


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_precision_that_the_run_has_anyway_may_be_asked_for(saved, precision):
    run_dir = saved("--precision", "auto")
    assert parse(["--resume", "--run_dir", run_dir, "--precision", precision]).precision == precision
    assert load_precision(run_dir) == "float32"


def test_another_precision_than_the_one_of_the_run_is_refused(saved):
    with pytest.raises(UserError, match="--precision auto"):
        parse(["--resume", "--run_dir", saved("--precision", "auto"), "--precision", "bfloat16"])


@pytest.mark.parametrize("precision", [None, "auto", 16])
def test_config_without_the_precision_of_the_run_is_damaged(saved, tmp_path, precision):
    run_dir = saved()
    (tmp_path / "config.json").write_text(json.dumps(load_config(run_dir) | {"precision": precision}))
    with pytest.raises(UserError, match=r"config\.json is damaged \(its precision is"):
        load_precision(run_dir)


def test_flags_are_kept_as_typed(saved):
    flags = load_flags(saved("--ema_decay", "0.990", ".9", "--learning_rate", "1e-5"))
    assert list(map(str, flags.ema_decay)) == ["0.990", ".9"]
    assert flags.learning_rate == 1e-5
