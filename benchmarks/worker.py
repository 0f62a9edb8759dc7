"""Shared by all implementations: the flags of train.py, random images, and the protocol with bench.py.

An implementation is a process that warms up and prints {"device": "CPU", ...}. For each number of steps on its standard
input, it then takes a turn and prints {"seconds": 5.37, "peak_bytes": 1523134464}.
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training import flags  # noqa: E402 - found through the line above

IMAGE_SHAPE = (32, 32, 3)  # of CIFAR-10
CLASSES = 10
SWITCHES = {"--no_ema", "--compile"}  # of train_step.py and pytorch.py; all other flags are those of train.py
WARM_UP_STEPS = 5


def parse():
    """Returns the flags of train.py; their defaults apply to every implementation."""
    parsed = flags.parse([argument for argument in sys.argv[1:] if argument not in SWITCHES])
    parsed.train_size = parsed.train_size or 50_000
    return parsed


def draw(size):
    """Returns random images [size, 32, 32, 3] uint8 and labels [size] int64; the content does not affect the speed."""
    random = np.random.default_rng(0)
    return random.integers(0, 256, (size, *IMAGE_SHAPE), np.uint8), random.integers(0, CLASSES, size)


def serve(about, run):
    """Warms up, prints the dict `about`, then takes turns until bench.py closes the pipe.

    `run` is a function of a number of training steps. It returns when the device has finished them.
    """
    first_step = timed(run, 1)  # includes the compilation
    run(WARM_UP_STEPS - 1)
    print(json.dumps(about | {"first_step_seconds": first_step}), flush=True)
    for line in sys.stdin:
        seconds = timed(run, int(line))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


def timed(run, steps):
    start = time.perf_counter()
    run(steps)
    return time.perf_counter() - start
