"""Ctrl-C, SIGTERM and a closed terminal end a run in good order: it saves first; a second signal stops it at once."""

import contextlib
import os
import signal
import socket
import threading

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP (the terminal was closed)"}


def handled():
    """The signals to handle: nohup has a process ignore SIGHUP, and that is how it stays."""
    return [number for number in NAMES if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class Stop:
    """`signal` is None until one arrived, then its number."""

    signal = None


@contextlib.contextmanager
def graceful():
    """Within it, signals set `Stop.signal` instead of raising.

    Python runs signal handlers between bytecodes only, so a long session.run would hold them up. The wake-up
    descriptor is written by the C handler at once, and a thread reads it.

    Yields:
      Stop.
    """
    stop = Stop()
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch():
        while arrived := reader.recv(1):
            if arrived[0] not in NAMES:  # another signal that some library handles
                continue
            if stop.signal is None:
                stop.signal = arrived[0]
            elif arrived[0] != signal.SIGHUP:  # of a closed terminal both the shell and the system may tell
                os._exit(128 + arrived[0])

    threading.Thread(target=watch, daemon=True).start()
    before = {number: signal.signal(number, lambda *_: None) for number in handled()}
    descriptor = signal.set_wakeup_fd(writer.fileno())
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
