"""A process that handles signals like a run: PYTHONPATH=. python tests/support/waiting.py SECONDS {SIG_DFL,SIG_IGN}

It takes SECONDS to save; SIG_IGN ignores SIGHUP, as nohup does.
"""

import signal
import sys
import time

from training.cli import catch_signals

signal.signal(signal.SIGHUP, signal.Handlers[sys.argv[2]])
with catch_signals() as stop:
    print("ready", flush=True)
    while not stop.signal:
        time.sleep(0.01)
    print(stop.signal, flush=True)
    time.sleep(float(sys.argv[1]))
    print("saved", flush=True)
