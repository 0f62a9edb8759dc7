"""The command report.py: usage, what it prints and writes, and what it does not import."""

import subprocess
import sys
import time

import pytest
from support.commands import ROOT
from support.finished_runs import level, write_predictions, write_run
from training.errors import UserError

import report
from analysis import gallery


def test_the_command_fails_in_one_sentence(run, tmp_path):
    for arguments, status in (([], 2), ([tmp_path, "--colour"], 2), ([tmp_path / "missing"], 1), ([tmp_path], 1)):
        result = run("report.py", *arguments)
        assert result.returncode == status
        assert len(result.stderr.splitlines()) == 1 and result.stderr.startswith("report.py: ")
        assert not result.stdout


@pytest.mark.parametrize("script", ["report.py", "evaluate.py"])
def test_help_is_answered_at_once(run, script):
    started = time.monotonic()
    result = run(script, "--help")
    assert time.monotonic() - started < 1  # 0.05 s on an idle machine; SciPy or matplotlib alone would be near it
    assert result.returncode == 0 and "usage: " + script in result.stdout


def test_help_imports_no_library():
    code = "import report, sys\ntry: report.main(['--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'numpy', 'scipy', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True)


def test_scipys_slow_part_waits_until_it_is_needed():
    code = "import analysis.statistics, sys; sys.exit('scipy.stats' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True)


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="--output"):
        report.main([str(tmp_path / "run"), "--output", str(tmp_path / "file")])
    assert (tmp_path / "file").read_text() == "mine"


def test_two_groups_print_their_tables_and_keep_their_figures_apart(tmp_path, capsys):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "--width", 0.5)
    report.main([str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert printed.count("one seed (0), so no interval") == 2 and printed.count("+3.00") == 2
    assert {"1-gain.png", "2-gain.png"} <= {file.name for file in (tmp_path / "out").iterdir()}


def test_the_terminal_says_what_the_page_says(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gallery, "load_images", lambda *_: pytest.fail("no images are needed to say so"))
    accuracies = {"raw": 0.75, "raw/recomputed": 0.76, "ema/0.998/raw": 0.78}
    for seed in range(2):
        write_run(tmp_path / f"seed-{seed}", "--seed", seed, classifiers=level(accuracies))
    write_predictions(tmp_path / "seed-1")
    monkeypatch.setattr(gallery, "gallery", lambda *_: gallery.Gallery("The sentence.", None, [], []))
    report.main([str(tmp_path), "--output", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "gain over raw, points" in printed and "Every classifier after epoch 3" in printed
    assert "Beyond accuracy, after epoch 3, one seed (1)" in printed and "The sentence." in printed
    assert f"Not in the measures beyond accuracy: {tmp_path / 'seed-0'} holds no predictions.npz." in printed
    assert max(map(len, printed.replace(str(tmp_path), "").splitlines())) <= 120


def test_tensorflow_is_not_imported_where_there_are_no_images_to_show(tmp_path):
    run_dir = write_run(tmp_path / "run")
    code = f"import report, sys; report.main([{str(run_dir)!r}, '--output', {str(tmp_path / 'out')!r}])"
    code += "; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True)
