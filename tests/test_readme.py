"""The README's code runs, or stands in the source as it says; its numbers are what the logs say."""

import json
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from support.commands import ROOT

from training import config, options

README = (ROOT / "README.md").read_text()
SOURCE = "\n".join((ROOT / name).read_text() for name in ("train.py", "ema.py"))
TABLES = runpy.run_path(str(ROOT / "results" / "tables.py"))


def code_blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_code_stands_in_the_source_or_runs():
    quoted = [block for block in code_blocks() if block.startswith(" ")]
    programs = [block for block in code_blocks() if not block.startswith(" ")]
    assert quoted and programs
    for block in quoted:
        assert block in SOURCE, block
    for block in programs:
        result = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr


def test_the_program_of_the_readme_is_an_ema():
    """Trained for some steps, its EMA logits are those of the shadows, which follow the recurrence."""
    (program,) = (block for block in code_blocks() if not block.startswith(" "))
    check = """
import numpy as np
random = np.random.default_rng(0)
images, classes = random.normal(size=(8, 5)), random.integers(0, 3, 8)
with tf.Session() as session:
    session.run(tf.global_variables_initializer())
    (weights,) = var_list
    shadow = session.run(weights).astype(np.float64)
    for _ in range(5):
        session.run(train_op, {x: images, labels: classes})
        shadow = 0.998 * shadow + 0.002 * session.run(weights)
    np.testing.assert_allclose(session.run(ema_logits, {x: images}), images @ shadow, rtol=1e-4, atol=1e-5)
    assert abs(session.run(weights) - shadow).max() > 1e-4
"""
    result = subprocess.run(
        [sys.executable, "-c", program + check], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", [".", "results", "benchmarks", "training"])
def test_files_that_are_linked_are_there(folder):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / folder / "README.md").read_text()):
        if not target.startswith("http"):
            assert (ROOT / folder / target).exists(), target


def test_the_blocks_are_what_the_logs_say(capsys):
    assert TABLES["main"](["--check"]) == 0, capsys.readouterr().out


def test_one_changed_digit_of_a_block_is_found(tmp_path, capsys):
    start = README.index("<!-- results: gain -->")
    at = re.search(r"\d\d\.(\d)", README[start:]).start(1) + start
    changed = tmp_path / "README.md"
    changed.write_text(README[:at] + str((int(README[at]) + 1) % 10) + README[at + 1 :])
    assert TABLES["main"](["--check", "--files", str(changed)]) == 1
    assert capsys.readouterr().out.startswith("--- README.md")
    assert TABLES["main"](["--write", "--files", str(changed)]) == 0
    assert changed.read_text() == README


def test_a_number_in_the_prose_needs_a_log_behind_it(tmp_path, capsys):
    changed = tmp_path / "README.md"
    changed.write_text(README + "\nEMA adds 7.31 points, with `--width 0.123` and Python 3.10.\n")
    assert TABLES["main"](["--check", "--files", str(changed)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("a number that no log is behind: 7.31: EMA adds 7.31 points")


@pytest.mark.parametrize("name", ["gain", "cooldown", "guide", "starts"])
def test_what_is_kept_of_a_run_names_no_directory_of_the_machine(name):
    for file in (ROOT / "results" / name).rglob("*"):
        if file.suffix in (".json", ".jsonl", ".log"):
            assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", file.read_text()), file


def test_every_run_that_is_kept_was_made_with_the_flags_of_its_experiment():
    experiments = runpy.run_path(str(ROOT / "results" / "experiments.py"))["EXPERIMENTS"]
    trunks = {f"{name}/{run.name}": run.flags for name, one in experiments.items() for run in one.runs}
    found = 0
    for name, run in [(name, run) for name, one in experiments.items() for run in one.runs]:
        path = ROOT / "results" / name / run.name / "config.json"
        if not path.exists():
            continue
        saved = json.loads(path.read_text())["flags"]
        asked = config.saved_flags(config.parse(shlex.split(f"{trunks.get(run.trunk, '')} {run.flags}")))
        shared = asked.keys() & saved.keys() - {"run_dir", "resume"} - (config.MAY_CHANGE - {"epochs", "lr_cooldown"})
        typed = [options.as_argv({key: values[key] for key in sorted(shared)}) for values in (saved, asked)]
        assert typed[0] == typed[1], path
        found += 1
    assert found >= 7
