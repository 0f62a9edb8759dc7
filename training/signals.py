"""SIGINT and SIGTERM end a run in good order: the first asks it to stop and save, a second stops it at once."""

import contextlib
import os
import signal
import socket
import threading

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


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
            if stop.signal is not None:
                os._exit(128 + arrived[0])
            stop.signal = arrived[0]

    threading.Thread(target=watch, daemon=True).start()
    before = {number: signal.signal(number, lambda *_: None) for number in NAMES}
    descriptor = signal.set_wakeup_fd(writer.fileno())
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        writer.close()
