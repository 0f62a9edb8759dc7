"""Start and end of every command: --help, status lines on a terminal, native messages."""

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
from support.commands import OFFLINE, ROOT, TINY_RUN

TALKATIVE = {"TF_CPP_MIN_LOG_LEVEL": "0"}


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "report.py"])
def test_help_needs_no_tensorflow(script):
    command = [sys.executable, "-X", "importtime", ROOT / script, "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout[:6]) == (0, "usage:")
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "training" in imported
    assert not imported & {"tensorflow", "numpy", "matplotlib"}


def test_closed_pipe_ends_quietly(start, tmp_path):
    """As in `python train.py | head -1`."""
    process = start("train.py", *TINY_RUN, "--epochs", 1, "--run_dir", tmp_path / "run")
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=600) in (0, 128 + signal.SIGPIPE)


def test_late_error_is_one_line(run, tmp_path):
    result = run("train.py", *TINY_RUN, "--device", "gpu", "--run_dir", tmp_path / "run", environment=TALKATIVE)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("train.py: --device gpu")
    assert list(tmp_path.iterdir()) == []


def test_fatal_native_message_is_shown(run, tmp_path):
    result = run("train.py", *TINY_RUN, "--run_dir", tmp_path / "run", environment={"TF_XLA_FLAGS": "--bogus"})
    assert result.returncode != 0
    assert "--bogus" in result.stderr


def test_terminal_shows_80_columns(tmp_path):
    terminal, program_side = pty.openpty()
    fcntl.ioctl(program_side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "train.py", *TINY_RUN, "--epochs", "2", "--run_dir", tmp_path / "run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=program_side, stderr=program_side, env=os.environ | OFFLINE) as run:
        os.close(program_side)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the process has closed the terminal
            while part := os.read(terminal, 4096):
                shown += part
    os.close(terminal)
    assert run.returncode == 0
    states = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown.decode()).lstrip())
    assert states[0] == "loading ..."
    assert any(state.startswith("training:") and "images/s" in state and "loss " in state for state in states)
    for number in (1, 2):
        assert f"evaluating {number} of 2" in [state.strip() for state in states]
    assert max(len(state) for state in states if str(tmp_path) not in state) <= 80


def test_signal_during_import_is_reported(tmp_path):
    (tmp_path / "interrupted.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    program = "from training import cli; cli.run_cli('interrupted', lambda: None)"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.returncode == 128 + signal.SIGINT
    assert "Ctrl-C" in result.stderr
