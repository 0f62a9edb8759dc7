"""A process that ends at a signal as a run does, and takes so many seconds to save.

PYTHONPATH=.:tests python -m support.waiting SECONDS
"""

import sys
import time

from training.command import graceful

with graceful() as stop:
    print("ready", flush=True)
    while not stop.signal:
        time.sleep(0.01)
    print(stop.signal, flush=True)
    time.sleep(float(sys.argv[1]))
    print("saved", flush=True)
