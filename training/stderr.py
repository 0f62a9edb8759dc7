"""Keeps TensorFlow's native start-up log off the terminal; TF_CPP_MIN_LOG_LEVEL no longer does."""

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

from training.errors import INTERRUPTED, UserError


@contextlib.contextmanager
def captured_stderr():
    """Within it, what is written to file descriptor 2 is held back, and shown if an unexpected error passes.

    Yields:
      A list that holds the lines afterwards.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    captured = []
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        expected = False
        try:
            yield captured
            expected = True
        except (UserError, KeyboardInterrupt):
            expected = True  # its sentence says it all
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            file.seek(0)
            captured.extend(file.read().decode(errors="replace").splitlines())
            if not expected:
                print(*captured, sep="\n", file=sys.stderr)


def import_tensorflow(silent=False):
    """Imports TensorFlow without what it writes meanwhile; Ctrl-C ends the process at once, in one sentence.

    A KeyboardInterrupt amid the start of native modules may come out of them as some other error.

    Args:
      silent: whether TensorFlow's native code is to write of fatal errors alone from now on.
    """
    if silent:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    terminal = os.dup(2)

    def end(*_):
        os.write(terminal, f"{Path(sys.argv[0]).name}: {INTERRUPTED}\n".encode())
        os._exit(128 + signal.SIGINT)

    before = signal.signal(signal.SIGINT, end)
    with captured_stderr():
        import tensorflow  # noqa: F401
    signal.signal(signal.SIGINT, before)
    os.close(terminal)
