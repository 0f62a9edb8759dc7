"""How every command begins and ends: what it imports, what TensorFlow's native code writes, and where it cannot run."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest
from support.commands import CUT_OFF, ROOT, TINY_RUN, assert_one_sentence, ended, wait_until
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


def test_on_a_terminal_every_wait_has_a_name_in_80_columns(tmp_path):
    """Loading, training and evaluating, in one line that is written over and over."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "train.py", *TINY_RUN, "--epochs", "2", "--run_dir", tmp_path / "run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=its, stderr=its, env=os.environ | CUT_OFF) as process:
        os.close(its)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the process has closed the terminal
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    states = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode()).lstrip())
    assert states[0] == "loading TensorFlow ..."
    assert any(state.startswith("training:") and "images/s" in state and "loss " in state for state in states)
    for number in (1, 2):
        assert f"evaluating {number} of 2" in [state.strip() for state in states]
    assert max(len(state) for state in states if str(tmp_path) not in state) <= 80


def test_an_ordinary_mistake_shows_none(run, tmp_path):
    """One that is found after TensorFlow's import, with the remedy for it."""
    result = run("train.py", *TINY_RUN, "--device", "gpu", "--run_dir", tmp_path / "run", environment=TALKATIVE)
    assert_one_sentence(result, 1, "--device gpu", ROOT / "requirements/gpu.txt", "--device cpu")
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
