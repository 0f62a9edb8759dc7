"""evaluate.py's table and posthoc, on a tiny trained run."""

import contextlib
import csv
import io
import json
from types import SimpleNamespace

import flags
import numpy as np
import posthoc
import pytest
from errors import UserError

import evaluate
from analysis.statistics import log_softmax

LABELS = [
    "raw",
    "raw/recomputed",
    *(f"ema/{decay}/{policy}" for decay in ("0.90", "0.80") for policy in ("averaged", "raw", "recomputed")),
]
COLUMNS = ["label", "accuracy", "low", "high", "loss", "ece", "fixed", "broken", "p_value", "against"]


@pytest.fixture
def opened(trained, monkeypatch):
    """evaluate.py opens the run that is open already."""
    monkeypatch.setattr(evaluate, "Trained", lambda *_: contextlib.nullcontext(trained))
    return trained


def arguments(*argv):
    return flags.build_evaluate_parser().parse_args(list(map(str, argv)))


def table(style, opened, capsys):
    evaluate.print_table(arguments("table", "--run_dir", opened.path, "--format", style))
    return capsys.readouterr().out


def test_table_in_json_is_the_run_itself(opened, capsys):
    rows = json.loads(table("json", opened, capsys))
    assert [row["label"] for row in rows] == LABELS
    assert all(list(row) == COLUMNS for row in rows)
    last = json.loads((opened.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {row["label"]: row["accuracy"] for row in rows} == last["classifiers"]


def test_table_in_csv_says_the_same(opened, capsys):
    text = table("csv", opened, capsys)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == COLUMNS
    expected = json.loads(table("json", opened, capsys))
    for row, other in zip(rows, expected, strict=True):
        assert {name: value or None for name, value in row.items()} == {
            name: None if value is None else str(value) for name, value in other.items()
        }


def test_table_in_text_says_the_same_in_columns(opened, capsys):
    header, *lines = table("text", opened, capsys).splitlines()
    for name in ("classifier", "accuracy", "95% interval", "loss", "ece", "fixed", "broken", "p-value", "against"):
        assert name in header
    rows = json.loads(table("json", opened, capsys))
    for line, row in zip(lines, rows, strict=False):
        assert line.startswith(row["label"])
        assert f"{100 * row['accuracy']:.2f}%" in line
        assert len(line) == len(header)
        assert line.endswith(f" {row['against'] or '-'}")
    assert any("ema/0.90/recomputed over raw" in line for line in lines[len(rows) :])


@pytest.mark.parametrize(
    "argv",
    [[], ["table"], ["tables", "--run_dir", "x"], ["table", "--run_dir", "x", "--format", "xml"], ["table", "--run"]],
    ids=str,
)
def test_usage_errors_have_status_2(argv):
    with pytest.raises(SystemExit) as error:
        arguments(*argv)
    assert error.value.code == 2


@pytest.mark.parametrize("command", [evaluate.print_table, evaluate.sweep_widths])
def test_no_run_is_one_sentence(command, tmp_path):
    with pytest.raises(UserError, match="train"):
        command(arguments("posthoc" if command is evaluate.sweep_widths else "table", "--run_dir", tmp_path))


def test_posthoc_writes_accuracy_against_width(opened, capsys):
    argv = ["--widths", 0.06, 0.12, "--basis", 0.05, 0.15]
    evaluate.sweep_widths(arguments("posthoc", "--run_dir", opened.path, *argv))
    results = json.loads((opened.path / "posthoc.json").read_text())
    assert results["basis"] == [0.05, 0.15]
    assert list(results["relative_errors"]) == ["0.1"]
    assert results["relative_errors"]["0.1"] < 0.05
    assert [row["width"] for row in results["widths"]] == [0.06, 0.12]
    assert (opened.path / "posthoc.png").stat().st_size > 1000
    assert "width 0.12: " in capsys.readouterr().out
    # The last width is what the raw variables hold now.
    snapshots = posthoc.Snapshots(opened.path)
    (made,) = snapshots.synthesise([0.12], [0.05, 0.15])
    values = opened.session.run({v.op.name: v for v in opened.graph.var_class})
    for name, value in values.items():
        np.testing.assert_array_equal(value, made[name].astype(np.float32))
    right = np.mean(opened.logits("raw/recomputed").argmax(1) == opened.dataset.test.labels)
    assert results["widths"][-1]["accuracy"] == right


def test_posthoc_of_a_width_that_was_not_tracked_is_refused(opened):
    with pytest.raises(UserError, match=r"0\.07 was not tracked: choose from 0\.05, 0\.1, 0\.15") as error:
        evaluate.sweep_widths(arguments("posthoc", "--run_dir", opened.path, "--basis", 0.07))
    assert error.value.status == 2


def test_posthoc_without_snapshots_names_the_flag(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"flags": {}}))
    with pytest.raises(UserError, match="--ema_power"):
        evaluate.sweep_widths(SimpleNamespace(run_dir=tmp_path))


def test_reopened_run_gives_the_logits_that_training_left(trained):
    with np.load(trained.path / "predictions.npz", allow_pickle=False) as saved:
        assert set(saved) == {"labels", *LABELS}
        for label in LABELS:
            difference = log_softmax(trained.logits(label)) - log_softmax(saved[label])
            assert np.abs(difference).max() < 1e-5, label


@pytest.mark.slow
def test_table_as_a_process_prints_nothing_else(trained_run, run):
    result = run("evaluate.py", "table", "--run_dir", trained_run, "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    assert [row["label"] for row in json.loads(result.stdout)] == LABELS


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["table"], ["posthoc"], ["export", "--output", "x"], ["predict", "a.png"]], ids=str
)
def test_mistake_is_one_sentence_with_status_1(run, tmp_path, command):
    result = run("evaluate.py", *command, "--run_dir", tmp_path / "nowhere")
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("evaluate.py: ")
