"""Entry point shared by train.py, evaluate.py and report.py: arguments, signals, one-line error messages."""

import contextlib
import errno
import importlib
import logging
import os
import shlex
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOUBLE_SIGNAL_WINDOW = 1.0  # seconds; `timeout make` sends its signal to make and again to the whole process group
ERRNO_HINTS = {  # errno to advice
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EACCES: "check the permissions",
    errno.EROFS: "the file system is read-only",
}
SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "SIGHUP (terminal closed)",
    signal.SIGUSR1: "SIGUSR1",  # sent by schedulers before the time limit
    signal.SIGUSR2: "SIGUSR2",
}


class UserError(Exception):
    """A problem that the user can fix. The message is one line that says how; `status` is the exit status."""

    def __init__(self, message, status=1):
        super().__init__(message)
        self.status = status


def run(name, parse, loads="TensorFlow"):
    """Parses the command line, then imports module `name` and calls its main(arguments).

    The import takes seconds, so it comes after --help and usage errors have been answered.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)  # a path may not fit the locale's encoding
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    for number in handled_signals():
        signal.signal(number, exit_on_signal)
    with one_line_errors():
        arguments = parse()
        show_status(f"loading {loads} ...")
        with quiet_stderr():
            main = importlib.import_module(name).main
        show_status("")
        main(arguments)
    sys.exit(0)


@contextlib.contextmanager
def one_line_errors():
    """Turns expected exceptions into one line on stderr and an exit status; others keep their traceback."""
    try:
        yield
    except UserError as error:
        fail(error, error.status)
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would flush again at exit
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else error
        fail(f"{message}: {ERRNO_HINTS[error.errno]}" if error.errno in ERRNO_HINTS else message)
    except ModuleNotFoundError as error:
        fail(f"{error.name} is not installed: {how_to_install('requirements.txt')}")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        fail("out of memory: use a smaller --batch_size or --width, or free some memory")


def fail(message, status=1):
    show_status("")
    print(f"{Path(sys.argv[0]).name}: {in_one_line(message)}", file=sys.stderr, flush=True)
    sys.exit(status)


def exit_now(message, status):
    """Like `fail`, but from any thread."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    os._exit(status)


@contextlib.contextmanager
def quiet_stderr():
    """Discards what TensorFlow's native code prints while it is imported; no environment variable does."""
    saved = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def show_status(text):
    """Shows a transient status line on a terminal; "" clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\r", file=sys.stderr, flush=True)


def is_out_of_memory(error):
    resource_exhausted = getattr(error, "error_code", None) == 8  # tf.errors.ResourceExhaustedError
    return resource_exhausted or isinstance(error, MemoryError) or "bad_alloc" in str(error)


def in_one_line(message):
    return " ".join(str(message).splitlines())


def how_to_install(requirements):
    """The command for the running interpreter: Debian and Ubuntu refuse a bare pip outside a virtual environment."""
    return f"{shlex.quote(sys.executable)} -m pip install -r {shlex.quote(str(ROOT / requirements))}"


def script(name):
    """The shell command that runs `<name>.py`."""
    return f"python {shlex.quote(display_path(ROOT / f'{name}.py'))}"


def resume_command(path):
    return f"{script('train')} --resume --run_dir {shlex.quote(display_path(path))}"


def display_path(path):
    """The path relative to the current directory, if it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


# ---------------------------------------------------------------------------------------------------------------
# Signals


def handled_signals():
    """nohup makes a process ignore SIGHUP; leave that alone."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def exit_on_signal(number, _):
    exit_now(f"stopped by {SIGNALS[number]} before training started", 128 + number)


class Stop:
    signal = None  # number of the first signal received


@contextlib.contextmanager
def catch_signals():
    """Within it, signals only set `Stop.signal`, so that the run can save; a second Ctrl-C exits immediately."""
    stop = Stop()
    first_at = None

    def handler(number, _):
        nonlocal first_at
        now = time.monotonic()
        if stop.signal is None:
            stop.signal, first_at = number, now
        elif number == signal.SIGINT and now - first_at > DOUBLE_SIGNAL_WINDOW:
            exit_now("stopped by a second Ctrl-C before the checkpoint was saved", 128 + number)

    before = {number: signal.signal(number, handler) for number in handled_signals()}
    try:
        yield stop
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # everything is saved: let the last lines be printed
