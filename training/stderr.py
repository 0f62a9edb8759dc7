"""Keeps TensorFlow's native start-up log off the terminal; TF_CPP_MIN_LOG_LEVEL no longer does."""

import contextlib
import os
import sys
import tempfile

from training.errors import UserError


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
    """Imports TensorFlow without what it writes meanwhile; with silent, also later it writes of fatal errors alone."""
    if silent:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with captured_stderr():
        import tensorflow  # noqa: F401
