"""The driver's side of the conversation with a contestant: a process that does steps, each time within its time."""

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time

OUT_OF_MEMORY = re.compile(r".*(out of memory|OOM when allocating|RESOURCE_EXHAUSTED|bad_alloc).*", re.IGNORECASE)
RAISED = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b.*")


class CannotRunError(Exception):
    """A contestant that cannot do what is asked of it; says why."""


class Contestant:
    """A process that is warm and ready to take its turns; `about` is what it says of itself.

    Deadlines are on the clock of time.monotonic. CannotRunError says that it ended, or was ended because it was late.
    """

    def __init__(self, command, deadline):
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log, "text": True}
        self.process = subprocess.Popen(command, **pipes, start_new_session=True)  # its compilers end with it
        self.answers = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.about = self._answer(deadline)

    def run(self, steps, deadline):
        """Has it do so many training steps; the dict that it answers."""
        with contextlib.suppress(BrokenPipeError):  # the answer says why
            print(steps, file=self.process.stdin, flush=True)
        return self._answer(deadline)

    def _read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a library may print something of its own
                if isinstance(answer := json.loads(line), dict):
                    self.answers.put(answer)
        self.answers.put(None)

    def _answer(self, deadline):
        try:
            answer = self.answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self.close()
            raise CannotRunError("it was not done within its time") from None
        if answer is None:
            status = self.process.wait()
            self.log.seek(0)
            why = reason(self.log.read())
            self.close()
            raise CannotRunError(f"it ended with status {status}: {why}")
        return answer

    def close(self):
        """Ends the process, if it is there."""
        if not self.log.closed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.log.close()


def reason(stderr):
    """Why a process ended, in one line, from what it wrote to stderr."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for pattern in (RAISED, OUT_OF_MEMORY) for line in lines if pattern.fullmatch(line)]
    return (telling or lines or ["no message"])[-1][:300]
