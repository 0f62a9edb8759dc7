"""The driver's side of the conversation with contestants: processes that take turns, each within its time."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT_OF_MEMORY = re.compile(r".*(out of memory|OOM when allocating|RESOURCE_EXHAUSTED|bad_alloc).*", re.IGNORECASE)
RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b.*")


class CannotRunError(Exception):
    """A process that cannot do here what is asked of it; says why."""


class NotHereError(CannotRunError):
    """A contestant that this machine lacks something for, whatever its flags."""


class Contestant:
    """One process, ready to take its turns.

    Args:
      command: as for subprocess.
      deadline: when it has to be done with all that it is asked for, on the clock of time.monotonic; None for never.

    Raises:
      CannotRunError: it says that it cannot run here, it ended, or it took too long to get warm.
    """

    def __init__(self, command, deadline=None):
        self.deadline = deadline
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,  # compilers that it starts end with it
        )
        self.answers = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        try:
            answer = self._answer()
            if "skip" in answer:
                raise NotHereError(answer["skip"])
        except BaseException:
            self.close()
            raise
        self.about = answer["about"]

    def ask(self, *command):
        """Has it do one command; the dict that it answers.

        Raises:
          CannotRunError: it ended, or its time was over.
        """
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            print(*command, file=self.process.stdin, flush=True)
        return self._answer()

    def _read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a library may print something of its own
                if isinstance(answer := json.loads(line), dict):
                    self.answers.put(answer)
        self.answers.put(None)

    def _answer(self):
        left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
        try:
            answer = self.answers.get(timeout=left)
        except queue.Empty:
            self.close()
            raise CannotRunError("it was not done within its share of the time") from None
        if answer is not None:
            return answer
        status = self.process.wait()
        self.log.seek(0)
        why = reason(self.log.read())
        self.close()
        raise CannotRunError(f"it ended with status {status}: {why}")

    @property
    def closed(self):
        return self.log.closed

    def close(self):
        if self.closed:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdin.close()
        self.log.close()


def launch(script, *arguments, deadline=None):
    """Starts the contestant benchmarks/`script`; it is warm when this returns. `deadline` is as for Contestant.

    Raises:
      CannotRunError: as Contestant.
    """
    return Contestant([sys.executable, str(HERE / script), *map(str, arguments)], deadline)


def reason(stderr):
    """Why a process ended, in one line, from what it wrote to stderr."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for pattern in (OUT_OF_MEMORY, RAISED):
        if found := [line for line in lines if pattern.fullmatch(line)]:
            return found[-1][:300]
    return lines[-1][:300] if lines else "no message"


def process_output(command):
    """(seconds, stdout) of a Python process from its start to its end.

    Raises:
      CannotRunError: it failed.
    """
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise CannotRunError(f"{Path(command[0]).name} ended with status {done.returncode}: {reason(done.stderr)}")
    return seconds, done.stdout


def check_same_network(abouts):
    """Checks that all contestants that count their parameters have equally many; `abouts` is name to `about`."""
    counts = {name: about["parameters"] for name, about in abouts.items() if "parameters" in about}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"bench.py: the contestants' networks differ in their number of parameters: {counts}")


def say(text):
    print(text, file=sys.stderr, flush=True)
