"""evaluate.py table: every classifier of a run, as text, JSON or CSV; and which EMA the images held out choose."""

import csv
import io
import json

import pytest
from support.commands import TINY_RUN
from support.evaluating import LABELS, arguments, leave_open
from support.files import read_arrays, read_rows

from analysis import predictions
from analysis import table as command

COLUMNS = ["label", "accuracy", "low", "high", "loss", "ece", "fixed", "broken", "p_value", "against"]


@pytest.fixture
def opened(restored, monkeypatch):
    return leave_open(monkeypatch, command, restored)


def table(style, opened, capsys):
    command.main(arguments("table", "--run_dir", opened.path, "--format", style))
    return capsys.readouterr().out


def test_table_in_json_is_the_run_itself(opened, capsys):
    rows = json.loads(table("json", opened, capsys))
    assert [row["label"] for row in rows] == LABELS
    assert all(list(row) == COLUMNS for row in rows)
    assert {row["label"]: row["accuracy"] for row in rows} == read_rows(opened.path)[-1]["classifiers"]


def test_what_the_run_told_at_its_end_is_not_computed_again(opened, capsys, monkeypatch):
    monkeypatch.setattr(command, "asked", lambda run: pytest.fail("it is in predictions.npz"))
    table("json", opened, capsys)


@pytest.mark.parametrize("hidden", ["nothing", "labels", "ema/0.80/recomputed", "step"])
def test_what_the_run_told_is_what_its_checkpoint_says(opened, capsys, monkeypatch, hidden):
    """Computed anew where predictions.npz lacks something or is of another step, the rows are the same to the digit."""
    told, saved, computed = table("json", opened, capsys), command.at_the_end, []
    lacking = {name: array for name, array in saved(opened.path, opened.state["step"]).items() if name != hidden}
    assert saved(opened.path, opened.state["step"] + 1) == {}
    monkeypatch.setattr(command, "at_the_end", lambda *_: {} if hidden == "step" else lacking)
    monkeypatch.setattr(opened, "logits", lambda images, ask=opened.logits: computed.append(images) or ask(images))
    assert table("json", opened, capsys) == told
    assert bool(computed) == (hidden != "nothing")


@pytest.mark.parametrize("file", ["summary.json", "predictions.npz"])
@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_run_that_did_not_end_whole_tells_nothing(bank_run, tmp_path, file, content):
    for name in ("summary.json", "predictions.npz"):
        (tmp_path / name).write_bytes((bank_run / name).read_bytes())
    step = read_rows(bank_run)[-1]["step"]
    assert LABELS[0] in predictions.at_the_end(tmp_path, step)
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    assert predictions.at_the_end(tmp_path, step) == {}


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


def test_flips_are_counted_against_the_fair_baseline(opened, capsys):
    rows = {row["label"]: row for row in json.loads(table("json", opened, capsys))}
    saved = read_arrays(opened.path / "predictions.npz")
    right = {label: saved[label].argmax(1) == saved["labels"] for label in LABELS}
    for label, row in rows.items():
        if label == "raw":
            assert row["against"] is row["fixed"] is row["broken"] is row["p_value"] is None
            continue
        fair = "raw/recomputed" if label.startswith("ema/") and label.endswith("recomputed") else "raw"
        assert row["against"] == fair
        assert row["fixed"] == (right[label] & ~right[fair]).sum()
        assert row["broken"] == (~right[label] & right[fair]).sum()


def test_images_held_out_choose_an_ema_and_the_test_images_have_no_part_in_it(forked, tmp_path):
    directory = tmp_path / "run"
    flags = ["--ema_decay", "0.9", "0.5", "--validation_size", 64, "--epochs", 2, "--run_dir", directory]
    assert forked("train.py", *TINY_RUN, *flags).returncode == 0
    result = forked("evaluate.py", "table", "--run_dir", directory, "--format", "json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    last = read_rows(directory)[-1]
    for row in rows:
        if row["label"] in last["validation"]:
            assert row["validation"] == last["validation"][row["label"]]
    averages = [row for row in rows if row["label"].startswith("ema/")]
    (chosen,) = (row for row in rows if row["chosen"])
    assert chosen in averages
    assert chosen["validation"] == max(row["validation"] for row in averages)
    text = forked("evaluate.py", "table", "--run_dir", directory).stdout
    (line,) = (line for line in text.splitlines() if line.endswith(" *"))
    assert line.startswith(chosen["label"])
    assert f"{100 * chosen['validation']:.2f}%" in line


@pytest.mark.slow
def test_table_as_a_process_prints_nothing_else(bank_run, run):
    result = run("evaluate.py", "table", "--run_dir", bank_run, "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    assert [row["label"] for row in json.loads(result.stdout)] == LABELS


def test_the_choice_is_of_an_average_even_where_raw_weights_are_better():
    rows = [{"label": label} for label in ("raw", "ema/0.9/raw", "ema/0.99/raw")]
    chosen = command.with_choice(rows, {"raw": 0.9, "ema/0.9/raw": 0.7, "ema/0.99/raw": 0.8})
    assert [row["chosen"] for row in chosen] == [False, False, True]
