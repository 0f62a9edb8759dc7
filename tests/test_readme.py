"""The README files: the program in README.md is an EMA, links exist, and tables match the logs."""

import re
import subprocess
import sys

import pytest
from support.commands import ROOT

from results import experiments, readme_tables

README = (ROOT / "README.md").read_text()


def test_readme_program_is_ema():
    """After some steps the EMA logits use the shadows, which follow the recurrence."""
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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
    command = [sys.executable, "-c", program + check]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("folder", [".", "results", "benchmarks", "training"])
def test_linked_files_exist(folder):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / folder / "README.md").read_text()):
        if not target.startswith("http"):
            assert (ROOT / folder / target).exists(), target


def test_tables_match_logs():
    readme_tables.main(["--check"])


def test_archived_runs_name_no_local_directory():
    for file in (ROOT / "results").rglob("*"):
        if file.suffix in (".json", ".jsonl", ".log"):
            assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", file.read_text()), file


def test_archived_runs_belong_to_experiments():
    archived = {str(file.parent.relative_to(ROOT / "results")) for file in ROOT.glob("results/*/*/config.json")}
    assert archived == {run.name for run in experiments.RUNS if experiments.is_finished(run, ROOT / "results")}
