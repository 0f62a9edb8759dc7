"""Signals: the first is noted, so that the run can save; a second ends the process at once."""

import signal
import subprocess
import sys

import pytest
from support.commands import ROOT

from training import signals

WAITING = """
import time
from training import signals
with signals.graceful() as stop:
    print("ready", flush=True)
    while not stop.signal:
        time.sleep(0.01)
    print(stop.signal, flush=True)
    time.sleep({seconds})
    print("saved", flush=True)
"""


def waiting(seconds, before=""):
    script = before + WAITING.format(seconds=seconds)
    return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.parametrize("first", signals.NAMES, ids=lambda number: number.name)
def test_first_signal_is_noted_and_the_second_ends_the_process_at_once(first, second):
    process = waiting(60)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == f"{first.value}\n"
        process.send_signal(second)
        assert process.wait(timeout=20) == 128 + second
    finally:
        process.kill()


def test_closed_terminal_that_is_told_of_twice_does_not_cut_the_saving_short():
    process = waiting(0.5)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == f"{signal.SIGHUP.value}\n"
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "saved\n"
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()


def test_nohup_stays_nohup():
    process = waiting(0.1, before="import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{signal.SIGTERM.value}\n"
    finally:
        process.kill()


def test_handlers_are_as_before_afterwards():
    before = [signal.getsignal(number) for number in signals.NAMES]
    with signals.graceful() as stop:
        assert stop.signal is None
        assert [signal.getsignal(number) for number in signals.NAMES] != before
    assert [signal.getsignal(number) for number in signals.NAMES] == before
