"""How long a person waits: whole processes, `train.py --help`, and train.py with CIFAR-10 until its first step."""

import json
import os
import tempfile
import time
from pathlib import Path

from driver import HERE, CannotRunError, process_output, say

TRAIN = HERE.parent / "train.py"
STARTED = "FIRST_STEP_STARTED"  # environment variable: when a process was started, on the clock of time.monotonic
HELPS, FIRST_STEPS = 5, 3


def measure(arguments, data_dir=None):
    """The dict that the result keeps.

    Args:
      arguments: flags of train.py.
      data_dir: TFDS directory; None for that of TFDS_DATA_DIR, or TFDS's own.
    """
    say("timing the start")
    result = {"help": [process_output([TRAIN, "--help"])[0] for _ in range(HELPS)]}
    folder = prepared(data_dir)
    if not folder.is_dir():
        return result | {"skipped": "CIFAR-10 is not in the TFDS directory (--data_dir and TFDS_DATA_DIR name another)"}
    try:
        return result | {
            "cifar10": [first_step([*arguments, f"--data_dir={folder.parent}"]) for _ in range(FIRST_STEPS)]
        }
    except CannotRunError as error:
        return result | {"skipped": str(error)}


def prepared(data_dir=None):
    """Where TFDS would have CIFAR-10: data_dir, TFDS_DATA_DIR, or its default."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser() / "cifar10"


def first_step(arguments):
    """Seconds of train.py from its start to its first step done, in all and by parts; and the precision it chose."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ[STARTED] = str(time.monotonic())
        command = [HERE / "first_step.py", "--steps_per_run=1", f"--run_dir={directory}/run", *arguments]
        seconds, stdout = process_output(command)
    return {"seconds": seconds, **json.loads(stdout.strip().splitlines()[-1])}
