"""The command report.py: usage, what it prints and writes, and what it does not import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import ROOT
from support.damage import limited_file_size
from support.files import contents
from support.finished_runs import level, make_report, write_run, write_seeds

import report
from analysis.formatting import words
from training.cli import UserError

MANY = {"raw": 0.75, "raw/recomputed": 0.76, "ema/0.9/recomputed": 0.78, "ema/0.9995/recomputed": 0.77}


def names(directory):
    return {file.name for file in directory.iterdir()}


def test_the_command_fails_in_one_sentence(run, tmp_path):
    for arguments, status in (([], 2), ([tmp_path, "--colour"], 2), ([tmp_path / "missing"], 1), ([tmp_path], 1)):
        result = run("report.py", *arguments)
        assert result.returncode == status
        assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("report.py: ")
        assert not result.stdout


@pytest.mark.parametrize("backend", ["", "module://matplotlib_inline.backend_inline", "nonsense"])
def test_a_report_without_images_needs_no_tensorflow_and_no_backend(tmp_path, monkeypatch, backend):
    monkeypatch.setenv("MPLBACKEND", backend)
    code = "import sys, report; from analysis.flags import report_parser; report.main(report_parser().parse_args())"
    code += "; sys.exit('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, write_run(tmp_path / "run"), "--output", tmp_path / "out"]
    result = subprocess.run(command, cwd=ROOT, timeout=60, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert "accuracy.png" in names(tmp_path / "out")


def test_where_nothing_can_be_drawn_there_is_a_warning_and_the_rest_of_the_report(run, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("raise ValueError('broken')")
    broken = {"PYTHONPATH": str(tmp_path)}
    result = run("report.py", write_run(tmp_path / "run"), "--output", tmp_path / "out", environment=broken)
    assert result.returncode == 0 and "+3.00" in result.stdout
    assert [line.count("could not be drawn: broken") for line in result.stderr.splitlines()] == [1, 1]
    assert names(tmp_path / "out") == {"report.html", "report.json"}


def test_runs_in_a_directory_that_is_no_utf8_are_reported(run, tmp_path):
    path = write_run(Path(os.fsdecode(os.fsencode(tmp_path) + b"/nu\xff")) / "run")
    result = run("report.py", path, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "nu\\udcff" in (tmp_path / "out" / "report.html").read_text()


def test_a_report_that_does_not_fit_on_the_disk_leaves_the_one_before(tmp_path):
    write_run(tmp_path / "run")
    make_report(tmp_path / "run", "--output", tmp_path / "out")
    before = contents(tmp_path / "out")
    write_run(tmp_path / "other", "--lr_cooldown", 1)
    with limited_file_size(10_000), pytest.raises(OSError, match=r"report\.html"):
        make_report(tmp_path / "other", "--output", tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_report_that_was_cut_short_may_be_made_again(tmp_path):
    files = {"report.html": b"", "accuracy.png": None, "report.json": b'{"groups": [], "annealing": []}'}
    with pytest.raises(TypeError):
        report.write(tmp_path / "out", files)
    make_report(write_run(tmp_path / "run"), "--output", tmp_path / "out")
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output"):
        make_report(tmp_path / "run", "--output", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["accuracy.png", "report.html", "report.json"])
def test_a_persons_files_are_not_written_over(tmp_path, name):
    write_run(tmp_path / "run")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / name).write_text("[1]")
    (tmp_path / "docs" / "1-gain.svg").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match="another --output"):
        make_report(tmp_path / "run", "--output", tmp_path / "docs")
    assert contents(tmp_path) == before


def test_a_second_report_in_a_directory_leaves_no_figure_of_the_first(tmp_path, capsys):
    write_run(tmp_path / "a", classifiers=level(MANY))
    write_run(tmp_path / "b", "--lr_cooldown", 1, classifiers=level(MANY))
    out = tmp_path / "out"
    make_report(tmp_path / "a", tmp_path / "b", "--output", out)
    for text in (capsys.readouterr().out, (out / "report.html").read_text(), (out / "report.json").read_text()):
        assert "Averaging and annealing" in text
    assert {"1-gain.png", "2-gain.svg", "2-horizon.png", "annealing.png"} <= names(out)
    (out / "3-holiday.png").write_text("mine")
    write_run(tmp_path / "c")
    make_report(tmp_path / "c", "--output", out)
    figures = {f"{name}.{kind}" for name in ("accuracy", "gain") for kind in ("png", "svg")}
    assert names(out) == {"report.html", "report.json", "3-holiday.png"} | figures


def test_people_read_words_and_programs_labels(tmp_path, capsys):
    make_report(write_seeds(tmp_path / "runs", {label: [[value]] * 2 for label, value in MANY.items()}),
                "--output", tmp_path / "out")  # fmt: skip
    printed = capsys.readouterr().out
    assert words("ema/0.9/recomputed") in printed and "ema/" not in printed
    assert "ema/" not in (tmp_path / "out" / "report.html").read_text()
    (group,) = json.loads((tmp_path / "out" / "report.json").read_text())["groups"]
    assert group["accuracy"] == {label: [value] * 2 for label, value in MANY.items()}
    assert (group["average"], group["against"], group["seeds"]) == ("ema/0.9/recomputed", "raw/recomputed", [0, 1])
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) <= 120
