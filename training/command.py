"""How every command begins and ends: surroundings, command line, native messages, signals, one sentence if it fails."""

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

ROOT = Path(__file__).parent.parent
REMEDIES = {  # what mends a failure of the system, by its errno
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "let files grow further (ulimit -f unlimited)",
    errno.EMFILE: "let a process open more files (ulimit -n 1024)",
    errno.ENFILE: "let the system open more files",
    errno.ENOMEM: "free some memory, or lift the limit on it (ulimit -v unlimited)",
    errno.EAGAIN: "let this user start more processes (ulimit -u)",
    errno.EACCES: "get access",
    errno.EPERM: "get access",
    errno.EIO: "mend the disk or the connection to it",
    errno.EROFS: "have the file system mounted for writing",
    errno.EEXIST: "remove what is in its place",
    errno.EISDIR: "remove what is in its place",
}
SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "SIGHUP (the terminal was closed)",
    signal.SIGUSR1: "SIGUSR1",  # schedulers send these two some time before the end
    signal.SIGUSR2: "SIGUSR2",
    signal.SIGXCPU: "SIGXCPU (the limit on CPU time)",
}
SECOND = 1.0  # seconds after which another Ctrl-C is meant to cut a save short; one stop may arrive twice at once
ENDED_WELL = b"\0ended well\0"  # written behind native messages that nobody needs to see
HELD = 2**20  # bytes of native messages that are kept to be shown

leavings = []  # directories that this process made, which go again at its end where they are empty
terminal = None  # a text stream to where file descriptor 2 led, once native messages are held back


class UserError(Exception):
    """A person's mistake or a missing thing; the message is one sentence that names what fixes it.

    `status` is the exit status: 2 for a wrong command line, 1 otherwise, 128 + n after signal n.
    """

    def __init__(self, sentence, status=1):
        super().__init__(sentence)
        self.status = status


def run(name, parse, loads="TensorFlow"):
    """`python <name>.py`: reads the command line by `parse`, then imports module `name` and calls its main(arguments).

    The import, mostly of what it `loads`, may take seconds: it comes after the answer to --help or to a typo.
    """
    mend_surroundings()
    for number in handled_signals():
        signal.signal(number, end_at_signal)
    arguments = or_exit(parse)
    or_exit(check_directory)
    or_exit(hold_native_messages)
    or_exit(or_exit(import_main, name, loads), arguments)
    end("", 0)


def mend_surroundings():
    """What a process may find around itself and must not end by."""
    for descriptor in range(3):  # one that is closed would be taken by the next file that is opened
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):  # of a notebook
            stream.reconfigure(errors="backslashreplace")  # a narrow encoding loses characters, never the command
            os.set_blocking(stream.fileno(), True)  # a slow reader is waited for
    os.environ["MPLBACKEND"] = "agg"  # figures are files, whatever a notebook has left here
    os.environ |= {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}  # whatever lies in ~/.keras
    # Of another program's progress bars; of an implementation that protobuf has no more; of a packager, perhaps empty.
    for name in [name for name in os.environ if name.startswith(("TQDM_", "PROTOCOL_BUFFERS_", "SOURCE_DATE_EPOCH"))]:
        del os.environ[name]
    if os.environ.get("TFDS_DATA_DIR") == "":  # TFDS takes it for the directory that one is in
        del os.environ["TFDS_DATA_DIR"]


def check_directory():
    """Refuses a directory that one is in, by sudo or su, without a right to: a checkpoint could not come back to it."""
    if not os.access(".", os.X_OK):
        raise UserError("you are in a directory that you may not enter: cd to another, and give whole paths")


def show_status(text):
    """Shows on a terminal what takes a moment now, in a line that the next output writes over; "" clears it."""
    if sys.stderr.isatty():
        with contextlib.suppress(OSError):
            print(f"\r\x1b[K{text}", end="\r", file=sys.stderr, flush=True)


def import_main(name, loads):
    """main of module `name`."""
    show_status(f"loading {loads} ...")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it tells users of what this program calls
    try:
        with contextlib.redirect_stderr(sys.__stderr__):
            return importlib.import_module(name).main
    finally:
        show_status("")


def how_to_install(requirements):
    """The commands, for a shell, that install a file of requirements for `python`."""
    python, environment, file = map(shlex.quote, map(str, (sys.executable, ROOT / ".venv", ROOT / requirements)))
    install = f"-m pip install -r {file}"
    if sys.prefix != sys.base_prefix:
        return f"{python} {install}"
    # Debian keeps pip from the system's Python.
    return f"{python} -m venv {environment} && {environment}/bin/python {install} && source {environment}/bin/activate"


def or_exit(function, *args):
    """`function(*args)`; where that goes wrong, one sentence on stderr and the end of the process."""
    sentence, status = "", 1
    try:
        return function(*args)
    except UserError as error:
        sentence, status = error, error.status
    except SystemExit as error:  # of argparse
        status = error.code
    except BrokenPipeError:  # the reader of `| head` has what it wanted
        status = 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, a missing permission
        sentence = f"{error.filename}: {error.strerror}" if error.filename else error
        if error.errno in REMEDIES:
            sentence = f"{sentence}: {REMEDIES[error.errno]}, then run the same command again"
    except ModuleNotFoundError as error:
        sentence = f"the package {error.name} is not installed: {how_to_install('requirements.txt')}"
    except ImportError as error:  # a native library that finds no memory, or is not for this machine
        sentence = (
            f"a package cannot be loaded ({str(error).splitlines()[-1]}): lift a limit on memory "
            f"(ulimit -v unlimited), or install it anew: {how_to_install('requirements.txt')}"
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        end_at_once(f"memory is used up: {REMEDIES[errno.ENOMEM]}, then run the same command again", 1)
    end(sentence, status)


def is_out_of_memory(error):
    """Whether an error says so, of Python, TensorFlow or another library; this module does without TensorFlow."""
    words = ("bad_alloc", "allocate memory", "out of memory", "can't start new thread")
    exhausted = getattr(error, "error_code", None) == 8  # tf.errors.ResourceExhaustedError
    return isinstance(error, MemoryError) or exhausted or any(word in str(error) for word in words)


def end(sentence, status):
    """Ends the process with the sentence, if there is one, on stderr; a terminal or pipe that is gone is no trouble, a
    full disk under stdout is."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout)
        if not status and error.errno in REMEDIES and error.errno != errno.EIO:  # of a terminal that is gone
            sentence = f"not all that was printed could be written ({error.strerror}), all else is done: "
            sentence, status = sentence + REMEDIES[error.errno], 1
    ignore_signals()  # Python's own end takes a second
    say(sentence)
    sys.exit(status)


def discard(stream):
    """Has what a stream could not write go nowhere: Python would try again at its end, and end with status 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def end_at_once(sentence, status):
    """As `end`, from any thread and whatever the others do."""
    say(sentence)
    os._exit(status)


def say(sentence):
    """What every end has to do: says the sentence, if there is one, and that native messages need not be shown."""
    show_status("")
    for directory in leavings:
        with contextlib.suppress(OSError):  # it holds a run by now
            directory.rmdir()
    stream = terminal or sys.stderr
    try:
        stream.write(f"{Path(sys.argv[0]).name}: {in_one_line(sentence)}\n" if sentence else "")
        stream.flush()  # argparse's words too
    except OSError:
        discard(stream)
    if terminal:
        with contextlib.suppress(OSError):
            os.write(2, ENDED_WELL)


def in_one_line(sentence):
    """A sentence without the line breaks that a path or an error may have brought; its spaces stay as they are."""
    return " ".join(str(sentence).splitlines())


def script(name):
    """How `<name>.py` is called, by this Python, from the directory that the person stands in, for a shell."""
    known = [command for command in ("python", "python3") if shutil.which(command) == sys.executable]
    python = Path(sys.executable)
    return shlex.join([known[0] if known else f"{shown(python.parent)}/{python.name}", shown(ROOT / f"{name}.py")])


def resume_command(path):
    """What goes on with the run in a directory, for a shell."""
    return f"{script('train')} --resume --run_dir {shlex.quote(shown(path))}"


def shown(path):
    """A path as the person would type it: relative where it lies below the directory that they stand in."""
    with contextlib.suppress(OSError, ValueError):
        relative = str(Path(path).relative_to(Path.cwd()))
        return f"./{relative}" if relative[0] in "-~" else relative  # neither a flag nor a home
    return str(path)


def hold_native_messages():
    """Holds back what is written to file descriptor 2 from now on, and shows it where this process ends unexpectedly.

    TensorFlow's native code writes there, and TF_CPP_MIN_LOG_LEVEL does not keep it from it. A child reads it, so that
    it is shown even if this process aborts or is killed. sys.stderr goes on to lead to where it led before.
    """
    global terminal
    if os.getpid() == 1:  # of a container, whose other processes end with it
        return
    reader, writer = os.pipe()
    descriptor = os.dup(2)
    sys.stdout.flush()
    if os.fork() == 0:
        show_unless_ended_well(reader, writer, descriptor)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    terminal = os.fdopen(descriptor, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    sys.__stderr__, sys.stderr = sys.stderr, terminal


def show_unless_ended_well(reader, writer, terminal):
    """What the child does: waits until nobody can write any more, and ends."""
    for number in SIGNALS:  # of a terminal they are sent to the child too
        signal.signal(number, signal.SIG_IGN)
    os.close(writer)
    os.dup2(terminal, 2)
    held = b""
    while some := os.read(reader, HELD):
        held = (held + some)[-HELD:]
    if ENDED_WELL not in held:
        with contextlib.suppress(OSError):
            os.write(terminal, held)
    os._exit(0)


# ---------------------------------------------------------------------------------------------------------------
# Signals


def handled_signals():
    """The signals to handle: nohup has a process ignore SIGHUP, and that is how it stays."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def ignore_signals():
    for number in handled_signals():
        signal.signal(number, signal.SIG_IGN)


def end_at_signal(number, _):
    """A signal handler for when there is nothing to save. A KeyboardInterrupt amid the start of native modules might
    come out of them as some other error."""
    ignore_signals()
    end_at_once(f"stopped by {SIGNALS[number]} before there was anything to save", 128 + number)


class Stop:
    """`signal` is None until one arrived, then its number."""

    signal = None


@contextlib.contextmanager
def graceful():
    """Within it, signals set `Stop.signal`, so that a run can save first; a second Ctrl-C ends the process at once.

    Yields:
      Stop.
    """
    stop, arrived = Stop(), 0.0

    def note(number, _):
        nonlocal arrived
        if stop.signal is None:
            stop.signal, arrived = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - arrived > SECOND:
            end_at_once("stopped by a second Ctrl-C before all was saved", 128 + number)

    before = {number: signal.signal(number, note) for number in handled_signals()}
    try:
        yield stop
    finally:  # by now all is saved: what the process still has to say is not to be cut off
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if handler is end_at_signal else handler)
