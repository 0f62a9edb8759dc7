"""How train.py begins and ends: the command line, then TensorFlow's import, then the work; one sentence if it fails."""

import importlib
import sys

from training import config
from training.errors import end_quietly, or_exit
from training.stderr import import_tensorflow


def run(name):
    """`python <name>.py`: reads the command line, imports TensorFlow, calls main(flags) of module `name`, and ends.

    `--help` and a typo are answered at once: TensorFlow's import takes seconds.
    """
    sys.excepthook = end_quietly
    flags = or_exit(config.parse)
    if "seeds" in flags:  # a process for each of them, which imports TensorFlow itself
        name = "analysis.series"
    else:
        import_tensorflow(silent=flags.strategy == "multiworker")  # whose sessions warn of every small thing
        tf = importlib.import_module("tensorflow.compat.v1")
        tf.disable_eager_execution()
    or_exit(importlib.import_module(name).main, flags)
    sys.exit()
