"""evaluate.py table: every classifier of a run, as text, JSON or CSV."""

import csv
import io
import json

import pytest
from support.evaluating import LABELS, best_on_validation
from support.files import read_arrays, read_rows

from analysis import run_files
from analysis.evaluation_table import as_lines, evaluate, print_rows

COLUMNS = ["label", "accuracy", "low", "high", "loss", "ece", "fixed", "broken", "p_value", "against", "step", "chosen"]


def printed(style, run, capsys):
    print_rows(run, evaluate(run), style)
    return capsys.readouterr().out


def test_json_agrees_with_the_log(restored, capsys):
    rows = json.loads(printed("json", restored, capsys))
    assert [row["label"] for row in rows] == LABELS
    assert all(list(row) == COLUMNS for row in rows)
    assert {row["label"]: row["accuracy"] for row in rows} == read_rows(restored.path)[-1]["classifiers"]
    assert {row["step"] for row in rows} == {16}
    assert [row["label"] for row in rows if row["chosen"]] == ["ema/0.90/averaged"]


def test_csv_agrees_with_json(restored, capsys):
    rows = list(csv.DictReader(io.StringIO(printed("csv", restored, capsys))))
    for row, expected in zip(rows, evaluate(restored), strict=True):
        assert row == {name: "" if value is None else str(value) for name, value in expected.items()}


def test_saved_predictions_equal_the_checkpoint(restored, monkeypatch):
    computed = []
    monkeypatch.setattr(
        restored, "test_logits", lambda label, ask=restored.test_logits: computed.append(label) or ask(label)
    )
    rows = evaluate(restored)
    assert not computed
    monkeypatch.setattr(restored, "state", restored.state | {"step": 15})  # without saved predictions
    again = [row | {"step": 16} for row in evaluate(restored)]
    assert list(map(str, computed)) == LABELS
    assert again == rows
    monkeypatch.undo()
    monkeypatch.setattr(restored.flags, "test_size", 32)  # edited by hand
    assert evaluate(restored) == rows


@pytest.mark.parametrize("file", ["summary.json", "predictions.npz"])
@pytest.mark.parametrize("content", [None, b"torn"])
def test_unfinished_run_has_no_predictions(bank_run, tmp_path, file, content):
    for name in ("summary.json", "predictions.npz"):
        (tmp_path / name).write_bytes((bank_run / name).read_bytes())
    assert list(run_files.predictions_of_step(tmp_path, 16)[1]) == LABELS
    assert run_files.predictions_of_step(tmp_path, 8) == (None, {})
    (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
    assert run_files.predictions_of_step(tmp_path, 16) == (None, {})


def test_text_agrees_with_json(restored, monkeypatch, capsys):
    text = printed("text", restored, capsys)
    assert "after step 16, epoch 2 of 2" in text.replace("\n ", "")
    lines = as_lines(evaluate(restored))
    groups = {"raw network's": ["raw", *LABELS[3::3]], "recomputed": ["raw/recomputed", *LABELS[4::3]]}
    groups["averaged"] = LABELS[2::3]
    assert len(lines) == 1 + 3 + len(LABELS)
    rows = {row["label"]: row for row in evaluate(restored)}
    for policy, labels in groups.items():
        place = lines.index(f"{policy} statistics")
        for line, label in zip(lines[place + 1 :], labels, strict=False):
            row = rows[label]
            assert line[2:].startswith("raw weights " if label.startswith("raw") else f"EMA {label[4:8]} ")
            assert line.startswith("*") == (label == "ema/0.90/averaged")
            numbers = [f"{100 * row['accuracy']:.2f}%", f"{100 * row['low']:.2f}-{100 * row['high']:.2f}"]
            flips = [row["fixed"], row["broken"]] if row["against"] else ["-", "-"]
            *most, p = line[13:].split()
            assert most == [*numbers, f"{row['loss']:.3f}", f"{row['ece']:.3f}", *map(str, flips)]
            assert p == "-" if not row["against"] else float(p) == pytest.approx(row["p_value"], rel=0.5)
            assert len(line) == len(lines[0]) <= 80
    best_on_validation(monkeypatch, restored, "ema/0.80/raw")
    (chosen,) = (line for line in as_lines(evaluate(restored)) if line.startswith("*"))
    assert chosen.startswith("* EMA 0.80") and chosen.endswith("60.00%") and len(chosen) <= 80


def test_flips_against_the_baseline(restored):
    saved = read_arrays(restored.path / "predictions.npz")
    right = {label: saved[label].argmax(1) == saved["labels"] for label in LABELS}
    for row in evaluate(restored):
        label = row["label"]
        if label == "raw":
            assert row["against"] is row["fixed"] is row["broken"] is row["p_value"] is None
            continue
        baseline = "raw/recomputed" if label.startswith("ema/") and label.endswith("recomputed") else "raw"
        assert row["against"] == baseline
        assert row["fixed"] == (right[label] & ~right[baseline]).sum()
        assert row["broken"] == (~right[label] & right[baseline]).sum()


def test_choice_ignores_the_test_images(restored, monkeypatch):
    worst = min(evaluate(restored)[2:], key=lambda row: row["accuracy"])["label"]
    best_on_validation(monkeypatch, restored, worst)  # raw weights are better there
    rows = evaluate(restored)
    assert [row["label"] for row in rows if row["chosen"]] == [worst]
    assert {row["label"]: row["validation"] for row in rows} == restored.last_row["validation"]
