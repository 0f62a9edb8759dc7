"""Commands in processes forked after the import of TensorFlow, which takes longer than a tiny run."""

import multiprocessing
import os
import resource
import runpy
import sys
import threading
import traceback

from support.commands import OFFLINE, ROOT, finish

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["tensorflow"])


class Forked(FORKSERVER.Process):
    """`python <script> <arguments>`, with the interface of subprocess.Popen.

    Args:
      folder: directory for its output.
      args: the script and its arguments.
      environment: variables to set.
      file_size: maximum bytes per file, like a full disk.
      thread: function that a second thread of the process calls.
    """

    def __init__(self, folder, args, environment=None, file_size=resource.RLIM_INFINITY, thread=None):
        super().__init__(daemon=True)
        self.args = list(map(str, args))
        self.output = [folder / "stdout", folder / "stderr"]
        self.environment = OFFLINE | (environment or {})
        self.file_size, self.thread = file_size, thread

    def run(self):
        status = 1
        try:
            for descriptor, file in enumerate(self.output, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
            os.chdir(ROOT)
            os.environ.update(self.environment)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_size, resource.RLIM_INFINITY))
            sys.argv = self.args
            if self.thread:
                threading.Thread(target=self.thread, daemon=True).start()
            runpy.run_path(str(ROOT / self.args[0]), run_name="__main__")
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    returncode = property(lambda self: self.exitcode)

    def poll(self):
        return self.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        self.join(timeout)
        return tuple(file.read_text() for file in self.output)


class Forks:
    """Runs commands; `new_folder` creates a directory for the output of each. The options are those of Forked."""

    def __init__(self, new_folder):
        self.new_folder = new_folder

    def start(self, *args, **options):
        process = Forked(self.new_folder(), args, **options)
        process.start()
        return process

    def __call__(self, *args, **options):
        return finish(self.start(*args, **options))
