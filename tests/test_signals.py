"""Signals: a run saves first, whichever arrives and however often; only a second Ctrl-C, a second later, ends it."""

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import (
    EPOCH_STEPS,
    RESUME,
    ROOT,
    TINY_RUN,
    assert_ended_well,
    assert_one_sentence,
    ended,
    resume_command,
    wait_until,
)
from support.files import read_rows, wait_for_a_row

from training import checkpoints
from training.cli import SECOND, SIGNALS

# ---------------------------------------------------------------------------------------------------------------
# A process that does nothing else


@pytest.fixture
def saving(start):
    """Starts support.waiting, sends it a signal, and returns when that has arrived."""

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
    result = ended(process)
    assert (result.returncode, result.stdout, result.stderr) == (0, "saved\n", "")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_further_signals_at_once_do_not_cut_the_saving_short(saving, number):
    process = saving(number, 0.2)
    for another in (number, signal.SIGINT):
        process.send_signal(another)
    assert_saved(process)


def test_a_signal_while_python_ends_changes_nothing():
    program = (
        "import atexit, os; from training import cli; atexit.register(os.kill, os.getpid(), {}); command.end('', 0)"
    )
    for number in SIGNALS:
        assert subprocess.run([sys.executable, "-c", program.format(int(number))], cwd=ROOT).returncode == 0


def test_only_a_second_ctrl_c_a_second_later_ends_the_process_at_once(saving):
    interrupted, terminated = (saving(number, SECOND + 1) for number in (signal.SIGINT, signal.SIGTERM))
    time.sleep(SECOND + 0.2)
    interrupted.send_signal(signal.SIGINT)
    terminated.send_signal(signal.SIGTERM)
    result = ended(interrupted)
    assert (result.returncode, result.stdout) == (130, "")
    assert_one_sentence(result, 130, "second Ctrl-C")
    assert_saved(terminated)


def test_nohup_stays_nohup(saving):
    assert_saved(saving(signal.SIGTERM, 0, hangup="SIG_IGN"))


# ---------------------------------------------------------------------------------------------------------------
# Runs


def stopped_step(result, number, directory):
    """The step at which a run was stopped by the signal, after checking that it is saved and how to go on is said."""
    assert_one_sentence(result, 128 + number, "checkpoint saved", resume_command(directory))
    step = int(re.search(r"at step (\d+)", result.stderr)[1])
    assert checkpoints.list_checkpoints(directory)[-1].name == f"step-{step:09d}"
    assert not (directory / "summary.json").exists()
    return step


def test_a_run_that_is_stopped_again_and_again_goes_on_to_the_end(forked, tmp_path):
    directory, step = tmp_path / "run", 0
    argv = ["train.py", *TINY_RUN, "--epochs", 1000, "--run_dir", directory]
    for numbers in ((signal.SIGINT, signal.SIGINT), (signal.SIGUSR1, signal.SIGUSR2)):
        process = forked.start(*argv)
        wait_for_a_row(directory, process)
        for number in numbers:
            process.send_signal(number)
        result = ended(process)
        assert f"resumed at step {step}" in result.stdout or not step
        step = stopped_step(result, numbers[0], directory)
        argv = [*RESUME, directory]

    assert_one_sentence(forked(*argv, "--epochs", 1), 2, "--epochs 1")
    epochs = step // EPOCH_STEPS + 2
    assert_ended_well(forked(*argv, "--epochs", epochs))
    rows = read_rows(directory)
    assert [(row["epoch"], row["step"]) for row in rows] == [(n, EPOCH_STEPS * n) for n in range(1, epochs + 1)]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert json.loads((directory / "summary.json").read_text())["epoch"] == epochs


def test_a_time_limit_around_make_loses_nothing(tmp_path):
    """`timeout` sends SIGTERM to its child, make, and to the whole group; make passes its own on: it arrives twice."""
    directory = tmp_path / "run"
    command = [sys.executable, ROOT / "train.py", *TINY_RUN, "--epochs", 1000, "--run_dir", directory]
    (tmp_path / "Makefile").write_text(f"train:\n\t{shlex.join(map(str, command))}\n")
    make = ["timeout", "8h", "make", "--file", tmp_path / "Makefile", "train"]
    with subprocess.Popen(make, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_for_a_row(directory, process)
        process.terminate()  # as when the time is over
        _, stderr = process.communicate(timeout=600)
    (sentence,) = (line for line in stderr.splitlines() if line.startswith("train.py: "))
    stopped_step(subprocess.CompletedProcess(command, 143, stderr=sentence), signal.SIGTERM, directory)


def test_interrupt_while_tensorflow_is_imported_is_one_sentence(start, tmp_path):
    process = start("train.py", *TINY_RUN, "--run_dir", tmp_path / "run")
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "tensorflow" in maps.read_text(), process)  # the import takes seconds from here
    process.send_signal(signal.SIGINT)
    assert_one_sentence(ended(process), 130, "Ctrl-C")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_comes_again_until_the_end_loses_nothing(forked, tmp_path):
    directory = tmp_path / "run"
    process = forked.start("train.py", *TINY_RUN, "--epochs", 1000, "--run_dir", directory)
    wait_for_a_row(directory, process)
    with contextlib.suppress(ProcessLookupError):
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.0005)
    stopped_step(ended(process), signal.SIGTERM, directory)
