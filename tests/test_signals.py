"""Signals: the first one saves the run; only a second Ctrl-C, a second later, ends it at once."""

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import ROOT, TINY_RUN, assert_one_sentence, finish, resume_command, wait_until
from support.files import wait_for_row

from training import checkpoints
from training.cli import DOUBLE_SIGNAL_WINDOW, SIGNALS


@pytest.fixture
def saving(start):
    """Function: starts support.waiting, sends a signal and returns when it was received."""

    def saving(number, seconds, hangup="SIG_DFL"):
        process = start("tests/support/waiting.py", seconds, hangup)
        assert process.stdout.readline() == "ready\n"
        if hangup == "SIG_IGN":
            process.send_signal(signal.SIGHUP)
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.value}\n"
        return process

    return saving


def assert_saved(process):
    result = finish(process)
    assert (result.returncode, result.stdout, result.stderr) == (0, "saved\n", "")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_repeated_signals_do_not_interrupt_saving(saving, number):
    process = saving(number, 0.2)
    for repeated in (number, signal.SIGINT):
        process.send_signal(repeated)
    assert_saved(process)


def test_only_second_ctrl_c_exits(saving):
    interrupted, terminated = (saving(number, DOUBLE_SIGNAL_WINDOW + 1) for number in (signal.SIGINT, signal.SIGTERM))
    time.sleep(DOUBLE_SIGNAL_WINDOW + 0.2)
    interrupted.send_signal(signal.SIGINT)
    terminated.send_signal(signal.SIGTERM)
    result = finish(interrupted)
    assert result.stdout == ""
    assert_one_sentence(result, 130)
    assert_saved(terminated)


def test_nohup_ignores_sighup(saving):
    assert_saved(saving(signal.SIGTERM, 0, hangup="SIG_IGN"))


def test_interrupt_during_import(start, tmp_path):
    process = start("train.py", *TINY_RUN, "--run_dir", tmp_path / "run")
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "tensorflow" in maps.read_text(), process)  # the import takes seconds
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_timeout_around_make_saves(tmp_path):
    """`timeout` signals make and its process group, and make passes the signal on: the run receives it twice."""
    directory = tmp_path / "run"
    command = [sys.executable, ROOT / "train.py", *TINY_RUN, "--epochs", 1000, "--run_dir", directory]
    (tmp_path / "Makefile").write_text(f"train:\n\t{shlex.join(map(str, command))}\n")
    make = ["timeout", "8h", "make", "--file", tmp_path / "Makefile", "train"]
    with subprocess.Popen(make, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_row(directory, process)
        process.terminate()  # as when the time is over
        _, stderr = process.communicate(timeout=600)
    (sentence,) = (line for line in stderr.splitlines() if line.startswith("train.py: "))
    assert resume_command(directory) in sentence
    step = int(re.search(r"at step (\d+)", sentence)[1])
    assert checkpoints.last_step(directory) == step
