"""The commands in processes that are forked after TensorFlow's import, which takes longer than a tiny run."""

import multiprocessing
import os
import resource
import runpy
import sys
import threading
import traceback

from support.commands import CUT_OFF, ROOT, ended

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["tensorflow"])


class Forked(FORKING.Process):
    """`python <script> <arguments>`, as a subprocess.Popen.

    Args:
      folder: where its output goes.
      args: the script and its arguments.
      environment: variables to set.
      file_size: bytes that no file can outgrow, as on a full disk.
      beside: a function that a thread of the process calls meanwhile.
    """

    def __init__(self, folder, args, environment=None, file_size=None, beside=None):
        super().__init__(daemon=True)
        self.args = list(map(str, args))
        self.output = [folder / "stdout", folder / "stderr"]
        self.environment = CUT_OFF | (environment or {})
        self.file_size = resource.RLIM_INFINITY if file_size is None else file_size
        self.beside = beside

    def run(self):
        """What the process does; it ends in here."""
        status = 1
        try:
            for descriptor, file in enumerate(self.output, 1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
            os.chdir(ROOT)
            os.environ.update(self.environment)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_size, resource.RLIM_INFINITY))
            sys.argv = self.args
            if self.beside:
                threading.Thread(target=self.beside, daemon=True).start()
            runpy.run_path(str(ROOT / self.args[0]), run_name="__main__")
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def poll(self):
        return self.exitcode

    @property
    def returncode(self):
        return self.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        self.join(timeout)
        return tuple(file.read_text() for file in self.output)


class Forks:
    """Runs commands in directories that `new_folder` makes."""

    def __init__(self, new_folder):
        self.new_folder = new_folder

    def start(self, *args, **options):
        """Starts a script with arguments and options of Forked, which it returns."""
        process = Forked(self.new_folder(), args, **options)
        process.start()
        return process

    def __call__(self, *args, **options):
        """As `start`, to the end; returns a subprocess.CompletedProcess."""
        return ended(self.start(*args, **options))
