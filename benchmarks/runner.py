"""Runs one implementation as a process and waits for its answers, each until a deadline."""

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

ERROR_LINE = re.compile(r"[\w.]*(Error|Exception)\b.*|.*(out of memory|OOM when allocating|bad_alloc).*", re.IGNORECASE)


class Implementation:
    """A process that warms up and takes turns. Deadlines are on the clock of time.monotonic.

    about       dict that the process printed after its warm-up
    seconds     list of the time of each turn
    peak_bytes  memory after the last turn
    failure     the reason if the process ended or missed a deadline, else None
    """

    def __init__(self, command, deadline):
        self.seconds, self.peak_bytes, self.failure = [], 0, None
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log, "text": True}
        self.process = subprocess.Popen(command, **pipes, start_new_session=True)  # `close` ends its compilers too
        self.answers = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.about = self._answer(deadline)

    def take_turn(self, steps, deadline):
        """Trains some steps, unless the process failed before."""
        if self.failure:
            return
        with contextlib.suppress(BrokenPipeError):  # _answer finds the reason
            print(steps, file=self.process.stdin, flush=True)
        if answer := self._answer(deadline):
            self.seconds.append(answer["seconds"])
            self.peak_bytes = answer["peak_bytes"]

    def _read(self):
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a line that a library printed
                if isinstance(answer := json.loads(line), dict):
                    self.answers.put(answer)
        self.answers.put(None)

    def _answer(self, deadline):
        """Returns the next dict that the process prints; None after a failure."""
        try:
            answer = self.answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            self.failure = "it took too long"
            return self.close()
        if answer is None:
            status = self.process.wait()
            self.log.seek(0)
            lines = [line.strip() for line in self.log if line.strip()]
            errors = [line for line in lines if ERROR_LINE.fullmatch(line)]
            self.failure = f"it ended with status {status}: {(errors or lines or ['no message'])[-1][:300]}"
        return answer

    def close(self):
        """Ends the process."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
