"""What every contestant shares: train.py's command line, random images, and the conversation with the driver.

A contestant is a process of its own. It builds and warms up once, says what it is, and then does steps whenever the
driver asks, so that several can take turns while only one computes. Every line is a JSON object:

    contestant: {"about": {...}}, or {"skip": "why it cannot run here"}
    driver:     run 20
    contestant: {"seconds": 5.37, "peak_bytes": 1523134464}
"""

import contextlib
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.errors import UserError  # noqa: E402

from training import config  # noqa: E402 - found through the line above

CORES = "BENCHMARK_CORES"  # environment variable, from the driver: PyTorch's processes do without training.device
WARM_UP_STEPS = 5


def parse(*switches):
    """The flags of train.py, whose defaults are then every contestant's, and whether each of `switches` was given."""
    given = [f"--{switch}" for switch in switches]
    flags = config.parse([argument for argument in sys.argv[1:] if argument not in given])
    vars(flags).update({switch: f"--{switch}" in sys.argv for switch in switches})
    return flags


def draw(size, seed):
    """Random images [size, 32, 32, 3] uint8 and labels [size] int64: speed does not depend on what they show."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (size, 32, 32, 3), np.uint8), random.integers(0, 10, size)


def cores():
    return int(os.environ.get(CORES) or os.cpu_count())


def serve(about, run, device_bytes=None, **commands):
    """Warms up, tells the driver what this is, and answers its commands until it closes the pipe.

    Args:
      about: what goes into the result: precision, parameters, version and the like.
      run: does that many training steps, and returns when the device has finished them.
      device_bytes: function without arguments: the most memory of the device that was in use.
      **commands: what else the driver may ask for, by name; each returns None, or a dict for its answer.
    """
    commands["run"] = run
    first = timed(run, 1)
    run(WARM_UP_STEPS - 1)
    _answer(about=about | {"first_step_seconds": first})
    for line in sys.stdin:
        name, *arguments = line.split()
        started = time.perf_counter()
        more = commands[name](*map(int, arguments)) or {}
        seconds = time.perf_counter() - started
        memory = {"device_bytes": device_bytes()} if device_bytes else {}
        _answer(seconds=seconds, peak_bytes=peak_bytes(), **memory, **more)


def timed(function, *arguments):
    """The seconds that a call takes: of a first step, which compiles."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def peak_bytes():
    """The most memory that this process has had; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def skip(sentence):
    """Ends this contestant: it cannot run here."""
    _answer(skip=sentence)
    sys.exit()


@contextlib.contextmanager
def skipping():
    """Within it, what a person would have to mend ends this contestant."""
    try:
        yield
    except UserError as error:
        skip(str(error))


def _answer(**fields):
    print(json.dumps(fields), flush=True)
