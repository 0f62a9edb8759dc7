"""How every command begins and ends: what it imports, what TensorFlow's native code writes, and where it cannot run."""

import signal
import subprocess
import sys

import pytest
from support.commands import ROOT, TINY_RUN, assert_one_sentence, ended, wait_until
from support.files import read_rows

COMMANDS = ("train.py", "evaluate.py", "report.py")
TALKATIVE = {"TF_CPP_MIN_LOG_LEVEL": "0"}
NATIVE = "MLIR V1 optimization pass"  # TensorFlow says so in the first session.run


@pytest.mark.parametrize("script", COMMANDS)
def test_help_is_answered_without_tensorflow_and_numpy(script):
    command = [sys.executable, "-X", "importtime", ROOT / script, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout[:6]) == (0, "usage:")
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "training" in imported
    assert not imported & {"tensorflow", "numpy", "matplotlib"}


# What Windows does not have, after what this system's own modules need of it.
WINDOWS = """
import argparse, json, logging, multiprocessing, os, pathlib, platform, runpy, shlex, shutil, signal, socket, subprocess
import sys, tempfile
sys.modules["fcntl"] = None
del signal.SIGHUP
sys.platform = "win32"
sys.argv = [{script!r}, "--help"]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize("script", COMMANDS)
def test_windows_is_refused_in_one_sentence(script):
    command = [sys.executable, "-c", WINDOWS.format(script=script)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "WSL" in line


def test_an_ordinary_run_shows_none_and_does_not_need_its_reader(start, tmp_path):
    """As in `python train.py | head -1`."""
    process = start("train.py", *TINY_RUN, "--epochs", 1, "--run_dir", tmp_path / "run", environment=TALKATIVE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=600) == 0
    assert len(read_rows(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "summary.json").exists()


def test_an_ordinary_mistake_shows_none(run, tmp_path):
    """One that is found after TensorFlow's import, with the remedy for it."""
    result = run("train.py", *TINY_RUN, "--device", "gpu", "--run_dir", tmp_path / "run", environment=TALKATIVE)
    assert_one_sentence(result, 1, "--device gpu", "requirements/gpu.txt", "--device cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_fatal_message_is_shown(run, tmp_path):
    result = run("train.py", *TINY_RUN, "--run_dir", tmp_path / "run", environment={"TF_XLA_FLAGS": "--bogus"})
    assert result.returncode != 0
    assert "--bogus" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV], ids=lambda number: number.name)
def test_a_process_that_is_ended_from_outside_shows_what_was_held_back(start, tmp_path, number):
    process = start("train.py", *TINY_RUN, "--run_dir", tmp_path / "run", environment=TALKATIVE)
    wait_until((tmp_path / "run" / "config.json").exists, process)
    process.send_signal(number)
    result = ended(process)
    assert result.returncode == -number
    assert NATIVE in result.stderr
