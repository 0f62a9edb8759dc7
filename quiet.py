"""Keeps TensorFlow's native start-up log off the terminal; TF_CPP_MIN_LOG_LEVEL no longer does."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def captured_stderr():
    """Within it, what native code writes to file descriptor 2 goes into the yielded list; shown if an error passes."""
    sys.stderr.flush()
    terminal = os.dup(2)
    captured = []
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        failed = True
        try:
            yield captured
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            file.seek(0)
            captured.extend(file.read().decode(errors="replace").splitlines())
            if failed:
                print(*captured, sep="\n", file=sys.stderr)
