"""The command report.py: usage, output, and files of others in the output directory."""

import json
import subprocess
import sys

import pytest
from support.commands import ROOT
from support.damage import limited_file_size
from support.files import contents
from support.finished_runs import constant, make_report, write_run, write_seeds

from analysis.formatting import display_name
from training.cli import UserError

SEVERAL = {"raw": 0.75, "raw/recomputed": 0.76, "ema/0.9/recomputed": 0.78, "ema/0.9995/recomputed": 0.77}


def names(directory):
    return {file.name for file in directory.iterdir()}


def test_errors_are_one_sentence(run, tmp_path):
    for arguments, status in (([], 2), ([tmp_path, "--colour"], 2), ([tmp_path / "missing"], 1), ([tmp_path], 1)):
        result = run("report.py", *arguments)
        assert result.returncode == status
        assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("report.py: ")
        assert not result.stdout


def test_report_needs_no_tensorflow(tmp_path):
    code = "import sys, report; from analysis.flags import report_parser; report.main(report_parser().parse_args())"
    code += "; sys.exit('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, write_run(tmp_path / "run"), "--output", tmp_path / "out"]
    result = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "accuracy.png" in names(tmp_path / "out")


def test_report_without_matplotlib(run, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ValueError('broken')")
    environment = {"PYTHONPATH": str(tmp_path)}
    result = run("report.py", write_run(tmp_path / "run"), "--output", tmp_path / "out", environment=environment)
    assert result.returncode == 0 and "+3.00" in result.stdout
    assert len(result.stderr.splitlines()) == 2
    assert names(tmp_path / "out") == {"report.html", "report.json"}


def test_full_disk_leaves_the_earlier_report(tmp_path):
    write_run(tmp_path / "run")
    make_report(tmp_path / "run", "--output", tmp_path / "out")
    before = contents(tmp_path / "out")
    other = write_run(tmp_path / "other", "--lr_cooldown", 1)
    with limited_file_size(100), pytest.raises(OSError, match=r"report\.json"):
        make_report(other, "--output", tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["accuracy.png", "report.html"])
def test_files_of_others_are_kept(tmp_path, name):
    write_run(tmp_path / "run")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / name).write_text("[1]")
    (tmp_path / "docs" / "1-gain.svg").write_text("mine")
    before = contents(tmp_path)
    for output in (tmp_path / "docs", tmp_path / "docs" / name):  # a directory, and a file
        with pytest.raises((UserError, OSError), match=name):
            make_report(tmp_path / "run", "--output", output)
    assert contents(tmp_path) == before


def test_second_report_deletes_leftover_figures(tmp_path, capsys):
    write_run(tmp_path / "a", classifiers=constant(SEVERAL))
    write_run(tmp_path / "b", "--lr_cooldown", 1, classifiers=constant(SEVERAL))
    out = tmp_path / "out"
    make_report(tmp_path / "a", tmp_path / "b", "--output", out)
    for text in (capsys.readouterr().out, (out / "report.html").read_text(), (out / "report.json").read_text()):
        assert "Averaging and annealing" in text
    assert {"1-gain.png", "2-gain.svg", "2-horizon.png", "annealing.png"} <= names(out)
    for name in ("3-holiday.png", "cat.png"):
        (out / name).write_text("mine")
    make_report(write_run(tmp_path / "c"), "--output", out)
    figures = {f"{name}.{kind}" for name in ("accuracy", "gain") for kind in ("png", "svg")}
    assert names(out) == {"report.html", "report.json", "3-holiday.png", "cat.png"} | figures


def test_text_has_names_and_json_labels(tmp_path, capsys):
    runs = write_seeds(tmp_path / "runs", {label: [[value]] * 2 for label, value in SEVERAL.items()})
    make_report(runs, "--output", tmp_path / "out")
    printed = capsys.readouterr().out
    assert display_name("ema/0.9/recomputed") in printed and "ema/" not in printed
    assert "ema/" not in (tmp_path / "out" / "report.html").read_text()
    (group,) = json.loads((tmp_path / "out" / "report.json").read_text())["groups"]
    assert list(group) == ["title", "average", "against", "epoch", "seeds", "accuracy", "notes", "tables"]
    assert group["accuracy"] == {label: [value] * 2 for label, value in SEVERAL.items()}
    assert (group["average"], group["against"], group["seeds"]) == ("ema/0.9/recomputed", "raw/recomputed", [0, 1])
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) <= 120
