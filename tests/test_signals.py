"""Signals: the first one saves the run; only a second Ctrl-C, a second later, ends it at once."""

import signal
import time
from pathlib import Path

import pytest
from support.commands import TINY_RUN, assert_one_sentence, finish, wait_until

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
