"""The README's program is what it says, and its numbers are what the logs say."""

import re
import subprocess
import sys

import pytest
from support.commands import ROOT

from results import experiments, tables

README = (ROOT / "README.md").read_text()


def test_the_program_of_the_readme_is_an_ema():
    """Trained for some steps, its EMA logits are those of the shadows, which follow the recurrence."""
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
    result = subprocess.run(
        [sys.executable, "-c", program + check], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr


def test_the_stop_of_several_machines_spares_their_launcher():
    pattern = re.search(r'pkill -TERM -f "(.*?)"', (ROOT / "training" / "README.md").read_text())[1]
    assert re.search(pattern, "/a/bin/python3 train.py --epochs 9") and re.search(pattern, "python /b/train.py")
    for other in ("ssh host0 cd x && TF_CONFIG='{}' python train.py", "bash -c python train.py", "vim train.py"):
        assert not re.search(pattern, other)


@pytest.mark.parametrize("folder", [".", "results", "benchmarks", "training"])
def test_files_that_are_linked_are_there(folder):
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / folder / "README.md").read_text()):
        if not target.startswith("http"):
            assert (ROOT / folder / target).exists(), target


def test_tables_and_numbers_are_what_the_logs_say(capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_what_is_kept_of_runs_names_no_directory_of_the_machine():
    for file in (ROOT / "results").rglob("*"):
        if file.suffix in (".json", ".jsonl", ".log"):
            assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", file.read_text()), file


def test_every_run_that_is_kept_is_one_of_an_experiment():
    kept = {run.name for name in experiments.EXPERIMENTS for run in experiments.kept(name, ROOT / "results")}
    assert kept == {str(file.parent.relative_to(ROOT / "results")) for file in ROOT.glob("results/*/*/config.json")}
