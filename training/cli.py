"""Shared by train.py, evaluate.py and report.py: one-line error messages, exit statuses and signals. No TensorFlow."""

import contextlib
import errno
import importlib
import logging
import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ERRNO_HINTS = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EACCES: "check the permissions",
}
SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "SIGHUP (terminal closed)",
    signal.SIGUSR1: "SIGUSR1",  # sent by schedulers before the time limit
    signal.SIGUSR2: "SIGUSR2",
    signal.SIGXCPU: "SIGXCPU (CPU time limit)",
}
DOUBLE_SIGNAL_WINDOW = 1.0  # seconds; `timeout make` signals make and then the whole process group
stderr_descriptor = 2  # another one while TensorFlow is imported
RESOURCE_EXHAUSTED = 8  # error_code of tf.errors.ResourceExhaustedError


class UserError(Exception):
    """A problem that the user can fix. The message is one line that says how; `status` is the exit status."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


def run_cli(name, parse):
    """Parses the command line, then imports module `name` and calls its main(arguments).

    The import takes seconds, so --help and usage errors are answered before it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["MPLBACKEND"] = "agg"  # a notebook sets another one, which fails outside it; Keras imports matplotlib
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # a path may not fit the locale's encoding
    for number in handled_signals():
        signal.signal(number, exit_on_signal)
    with one_line_errors():
        arguments = parse()
        show_status("loading ...")
        with quiet_stderr():
            main = importlib.import_module(name).main
        show_status("")
        main(arguments)
        sys.stdout.flush()  # inside, so that a closed pipe is reported here
    sys.exit(0)


@contextlib.contextmanager
def one_line_errors():
    """Turns expected exceptions into one line on stderr and an exit status; others keep their traceback."""
    try:
        yield
    except UserError as error:
        fail(error, error.status)
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout again at exit
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        fail(describe_os_error(error))
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed: {install_command('requirements.txt')}")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fail("out of memory: use a smaller --batch_size or --width, or free some memory")


def fail(message, status=1):
    """Prints one line on stderr and exits."""
    show_status("")
    print(f"{Path(sys.argv[0]).name}: {in_one_line(message)}", file=sys.stderr, flush=True)
    sys.exit(status)


def exit_now(message, status):
    """Like `fail`, but from any thread and from signal handlers."""
    os.write(stderr_descriptor, f"{Path(sys.argv[0]).name}: {message}\n".encode())
    os._exit(status)


@contextlib.contextmanager
def quiet_stderr():
    """Discards the lines that TensorFlow's native code prints while it is imported; no environment variable does."""
    global stderr_descriptor
    stderr_descriptor = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        yield
    finally:
        os.dup2(stderr_descriptor, 2)
        os.close(stderr_descriptor)
        stderr_descriptor = 2


def show_status(text):
    """Shows a transient status line on a terminal; "" clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\r", file=sys.stderr, flush=True)


def is_out_of_memory(error):
    exhausted = getattr(error, "error_code", None) == RESOURCE_EXHAUSTED
    return exhausted or isinstance(error, MemoryError) or "bad_alloc" in str(error)


def describe_os_error(error):
    """Returns "<file>: <reason>: <hint>" for an OSError, without the parts that are unknown."""
    message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"{message}: {ERRNO_HINTS[error.errno]}" if error.errno in ERRNO_HINTS else message


def in_one_line(message):
    return " ".join(str(message).splitlines())


def install_command(requirements):
    """Returns the command for the running interpreter: Debian and Ubuntu refuse a bare pip outside an environment."""
    return f"{shlex.quote(sys.executable)} -m pip install -r {shlex.quote(str(ROOT / requirements))}"


def script(name):
    """Returns the shell command that runs `<name>.py` with the running interpreter."""
    python = "python" if shutil.which("python") == sys.executable else display_path(sys.executable)
    return f"{shlex.quote(python)} {shlex.quote(display_path(ROOT / f'{name}.py'))}"


def resume_command(path):
    """Returns the shell command that resumes the run in `path`."""
    return f"{script('train')} --resume --run_dir {shlex.quote(display_path(path))}"


def cores():
    """Returns the number of processors that this process may use; a scheduler or taskset may grant only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def display_path(path):
    """Returns the path relative to the current directory if it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# ---------------------------------------------------------------------------------------------------------------
# Signals


def handled_signals():
    """Returns the signals to handle; nohup makes a process ignore SIGHUP, and that stays so."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def exit_on_signal(number, _):
    exit_now(f"stopped by {SIGNALS[number]} before there was anything to save", 128 + number)


class StopRequest:
    """`signal` is the number of the first signal received, or None."""

    signal = None


@contextlib.contextmanager
def catch_signals():
    """Makes signals only set the StopRequest that it yields, so that a run can save; a second Ctrl-C exits at once."""
    stop = StopRequest()
    first_at = None

    def handler(number, _):
        nonlocal first_at
        if stop.signal is None:
            stop.signal, first_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - first_at > DOUBLE_SIGNAL_WINDOW:
            exit_now("stopped by a second Ctrl-C before the checkpoint was saved", 128 + number)

    numbers = handled_signals()
    for number in numbers:
        signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # the run is saved: print the last lines
