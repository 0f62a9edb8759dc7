"""How every command here fails: one sentence on stderr, no traceback, an exit status that scripts can read."""

import contextlib
import errno
import os
import signal
import sys
from pathlib import Path

INTERRUPTED = "interrupted before there was anything to save"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class UserError(Exception):
    """A person's mistake or a missing thing; the message is one sentence that names what fixes it.

    `status` is the exit status: 2 for a wrong command line, 1 otherwise, 128 + n after signal n.
    """

    def __init__(self, sentence, status=1):
        super().__init__(sentence)
        self.status = status


def end_quietly(kind, error, traceback):
    """A sys.excepthook: Ctrl-C while modules are imported is no failure to trace."""
    if kind is not KeyboardInterrupt:
        return sys.__excepthook__(kind, error, traceback)
    print(f"{Path(sys.argv[0]).name}: {INTERRUPTED}", file=sys.stderr, flush=True)
    os._exit(130)  # Python itself would end by the signal, which is no exit status


def start(parse):
    """The command line, parsed by `parse`, as the first thing that a command does."""
    sys.excepthook = end_quietly
    return or_exit(parse)


def or_exit(function, *args):
    """`function(*args)`; where that goes wrong, one sentence on stderr and the end of the process."""
    try:
        return function(*args)
    except UserError as error:
        sentence, status = error, error.status
    except KeyboardInterrupt:
        sentence, status = INTERRUPTED, 130
    except BrokenPipeError:  # the reader of `| head` has what it wanted
        sentence, status = "", 128 + signal.SIGPIPE
    except OSError as error:  # a full disk, a missing permission
        sentence, status = f"{error.filename}: {error.strerror}" if error.filename else error, 1
        if error.errno in FULL:
            sentence = f"{sentence}: make room, then run the same command again"
    end(sentence, status)


def end(sentence, status):
    """Ends the process with the sentence, if there is one, on stderr; a terminal or pipe that is gone is no trouble."""
    if sentence:
        with contextlib.suppress(OSError):
            print(f"{Path(sys.argv[0]).name}: {' '.join(str(sentence).split())}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
