"""What every contestant shares: train.py's command line, random images, and the conversation with the driver.

A contestant is a process of its own. It builds and warms up once, says what it is, and then does steps whenever the
driver asks, so that several can take turns while only one computes. Every line is a JSON object:

    contestant: {"about": {...}}, or {"skip": "why it cannot run here"}
    driver:     run 20
    contestant: {"seconds": 5.37, "peak_bytes": 1523134464}
"""

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import flags as command_line  # noqa: E402 - found through the line above

WARM_UP_STEPS = 5


def parse(*switches):
    """The flags of train.py, whose defaults are then every contestant's, and whether each of `switches` was given."""
    given = [f"--{switch}" for switch in switches]
    flags = command_line.parse([argument for argument in sys.argv[1:] if argument not in given])
    vars(flags).update({switch: f"--{switch}" in sys.argv for switch in switches})
    return flags


def draw(size, seed):
    """Random images [size, 32, 32, 3] uint8 and labels [size] int64: speed does not depend on what they show."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (size, 32, 32, 3), np.uint8), random.integers(0, 10, size)


def serve(about, run, **commands):
    """Warms up, tells the driver what this is, and answers its commands until it closes the pipe.

    Args:
      about: what goes into the result: precision, parameters, version and the like.
      run: does that many training steps, and returns when the device has finished them.
      **commands: what else the driver may ask for, by name.
    """
    commands["run"] = run
    run(WARM_UP_STEPS)
    _answer(about=about)
    for line in sys.stdin:
        name, *arguments = line.split()
        started = time.perf_counter()
        commands[name](*map(int, arguments))
        seconds = time.perf_counter() - started
        _answer(seconds=seconds, peak_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def skip(sentence):
    """Ends this contestant: it cannot run here."""
    _answer(skip=sentence)
    sys.exit()


def _answer(**fields):
    print(json.dumps(fields), flush=True)
