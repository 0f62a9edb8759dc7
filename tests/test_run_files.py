"""A run directory, read: which directories are runs, and what is damage."""

import pytest
from support.files import read_rows
from support.finished_runs import groups_of, write_run, write_seeds
from training.errors import UserError

from analysis import finished


@pytest.fixture
def seeds(tmp_path, random):
    return write_seeds(tmp_path / "seeds", {"raw": random.random((4, 2)), "ema/0.9/raw": random.random((4, 2))})


def test_a_directory_named_beside_its_own_runs_counts_them_once(seeds):
    (group,) = groups_of(seeds, seeds / "seed-1")
    assert len(group.runs) == 4


def test_a_torn_last_line_is_what_a_crash_leaves(tmp_path):
    path = write_run(tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "raw_acc')
    assert finished.read_run(path).rows == read_rows(write_run(tmp_path / "whole"))


GOOD = '"epoch": 1, "step": 781, "raw_accuracy": 0.5, "ema_accuracy": 0.5'


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{torn\n", "damaged"),
        ("[1]\n", "damaged"),
        ('{"epoch": 1}\n', "raw_accuracy"),
        ('{"epoch": 1, "raw_accuracy": NaN, "ema_accuracy": 0.5}\n', "no fraction"),
        ('{"epoch": 1, "raw_accuracy": 75.0, "ema_accuracy": 0.5}\n', "no fraction"),
        ('{"epoch": 1, "raw_accuracy": "0.5", "ema_accuracy": 0.5}\n', "damaged"),
        ('{"epoch": "1", "raw_accuracy": 0.5, "ema_accuracy": 0.5}\n', "epoch '1'"),
        ('{"epoch": 0, "raw_accuracy": 0.5, "ema_accuracy": 0.5}\n', "epoch 0"),
        ('{"epoch": 1, "raw_accuracy": 0.5, "ema_accuracy": 0.5}\n', "step"),
        ('{"epoch": 1, "step": 0.5, "raw_accuracy": 0.5, "ema_accuracy": 0.5}\n', r"step 0\.5"),
        (f'{{{GOOD}, "classifiers": [1]}}\n', "damaged"),
        (f'{{{GOOD}, "classifiers": {{"raw": 0.5, "ema": 0.5}}}}\n', "'ema' is not the label"),
        (f'{{{GOOD}, "classifiers": {{"raw": 0.5, "ema/0.9/raw": 1.5}}}}\n', "ema/0.9/raw 1.5 is no fraction"),
        (f'{{{GOOD}, "validation": {{"raw": NaN}}}}\n', "raw nan is no fraction"),
        (f'{{{GOOD}, "validation": 0.5}}\n', "damaged"),
        ("\udcff\udcfe\n", "damaged"),
    ],
)
def test_damaged_metrics_are_named(tmp_path, line, what):
    path = write_run(tmp_path / "run")
    file = path / "metrics.jsonl"
    file.write_bytes(line.encode(errors="surrogateescape") + file.read_bytes())
    with pytest.raises(UserError, match=what) as error:
        finished.read_run(path)
    assert str(file) in str(error.value)


def test_the_line_that_those_are_made_from_is_none(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "metrics.jsonl").write_text(f"{{{GOOD}}}\n")
    assert len(finished.read_run(path).rows) == 1


def test_a_run_without_an_evaluation_is_named(tmp_path):
    path = write_run(tmp_path / "run")
    (path / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=f"{path} holds no evaluation yet"):
        groups_of(path)
    (path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=f"{path} holds no evaluation yet"):
        groups_of(path)


def test_a_failed_seed_is_named_not_passed_over(seeds):
    (seeds / "seed-4").mkdir()
    with pytest.raises(UserError, match="seed-4 holds no run"):
        groups_of(seeds)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"flags": {"width": -1}}', '{"flags": {}, "versions": 1}'])
def test_a_damaged_config_is_named(tmp_path, content):
    path = write_run(tmp_path / "run")
    (path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"run/config\.json is damaged"):
        groups_of(path)
