"""The commands in processes that are forked after TensorFlow's import, which takes longer than a tiny run.

`python -m support.forking` is the server. It reads jobs from stdin, one JSON object a line, and answers each with two
lines: the process id and, when the process has ended, its exit status, or minus the number of the signal that ended it.
"""

import json
import os
import resource
import runpy
import select
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from support.commands import CUT_OFF, ROOT, ended


class Server:
    """Runs commands, one at a time.

    Args:
      folder: function that makes a new directory, for what a command prints.
    """

    def __init__(self, folder):
        self.folder, self.newest = folder, None
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "bufsize": 0}
        command = [sys.executable, "-m", "support.forking"]
        environment = {**os.environ, **CUT_OFF, "TF_CPP_MIN_LOG_LEVEL": "0"}  # there is always something to hold back
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)

    def __call__(self, script, *argv, **options):
        """As `start`, to the end; returns a subprocess.CompletedProcess."""
        return ended(self.start(script, *argv, **options))

    def start(self, script, *argv, environment=None, file_size=None):
        """Starts `python <script> <argv>`; returns a Forked.

        Args:
          environment: variables to set.
          file_size: bytes that no file can outgrow, as on a full disk.
        """
        self.end_newest()
        folder, argv = self.folder(), [script, *map(str, argv)]
        output = [str(folder / "stdout"), str(folder / "stderr")]
        job = {"argv": argv, "output": output, "environment": environment or {}, "file_size": file_size}
        self.process.stdin.write(f"{json.dumps(job)}\n".encode())
        self.newest = Forked(self.process.stdout, argv, output)
        return self.newest

    def end_newest(self):
        if self.newest and self.newest.poll() is None:
            self.newest.send_signal(signal.SIGKILL)
            self.newest.communicate()

    def close(self):
        self.end_newest()
        self.process.stdin.close()
        self.process.wait()


class Forked:
    """One of its processes, as a subprocess.Popen."""

    def __init__(self, answers, args, output):
        self.answers, self.args, self.output, self.returncode = answers, args, output, None
        self.pid = int(answers.readline())

    def poll(self):
        if self.returncode is None and select.select([self.answers], [], [], 0)[0]:
            self.returncode = int(self.answers.readline())
        return self.returncode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        if self.returncode is None:
            select.select([self.answers], [], [], timeout)
        assert self.poll() is not None, f"not ended within {timeout} seconds"
        return tuple(Path(file).read_text() for file in self.output)


# ---------------------------------------------------------------------------------------------------------------
# The server's side


def serve():
    import tensorflow  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(argv, output, environment, file_size):
    """What the forked process does; it ends in here."""
    status = 1
    try:
        for descriptor, file in enumerate([os.devnull, *output]):
            os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), descriptor)
        os.environ.update(environment)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size or resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        sys.argv = argv
        runpy.run_path(str(ROOT / argv[0]), run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve()
