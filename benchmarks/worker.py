"""What every contestant shares: the flags of train.py, random images, and the conversation with the driver.

A contestant is a process that warms up once, and then does as many training steps as a line of its standard input says,
so that several can take turns while only one computes. It answers in lines of JSON: what it is, {"device": "CPU", ...},
and after each turn {"seconds": 5.37, "peak_bytes": 1523134464}.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training import flags  # noqa: E402 - found through the line above

SWITCHES = {"--no_ema", "--compile"}  # of train_step.py and of pytorch.py, beside the flags of train.py
WARM_UP_STEPS = 5


def parse():
    """The flags of train.py, whose defaults are every contestant's."""
    parsed = flags.parse([argument for argument in sys.argv[1:] if argument not in SWITCHES])
    parsed.train_size = parsed.train_size or 50_000
    return parsed


def draw(size):
    """Random images [size, 32, 32, 3] uint8 and labels [size] int64: speed does not depend on what they show."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (size, 32, 32, 3), np.uint8), random.integers(0, 10, size)


def cores():
    """The processors that this process may use; training.device, which says so too, needs TensorFlow."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def serve(about, run):
    """Warms up, answers with the dict `about`, then takes turns until the driver closes the pipe.

    `run` is a function that does so many training steps, and returns when the device has finished them.
    """
    first = timed(run, 1)  # which compiles
    run(WARM_UP_STEPS - 1)
    print(json.dumps(about | {"first_step_seconds": first}), flush=True)
    for line in sys.stdin:
        seconds = timed(run, int(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


def timed(run, steps):
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started
