"""`python train.py ...` up to the end of its first session.run of training, where the process ends.

Prints how many seconds each part took, as one JSON object. The driver says when the process was started.
"""

import json
import os
import runpy
import sys
import time

import contestant
from startup import STARTED

import data
from training import device, settings
from training.trainer import Trainer

marks = [("start", float(os.environ[STARTED]))]  # (part, when it was over)


def mark(part):
    marks.append((part, time.monotonic()))


def marked(function, before=None, after=None):
    """`function`, which notes when it is called (the part `before` is over) and when it returns (`after` is)."""

    def wrapper(*arguments, **options):
        if before:
            mark(before)
        result = function(*arguments, **options)
        if after:
            mark(after)
        return result

    return wrapper


def run_steps_and_end(trainer):
    run_steps(trainer)
    mark("first session.run")
    parts = {part: when - before for (part, when), (_, before) in zip(marks[1:], marks, strict=False)}
    print(json.dumps({"parts": parts, "precision": trainer.settings.precision.name}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    run_steps = Trainer.run_steps
    device.choose = marked(device.choose, before="imports")
    data.load_for = marked(data.load_for, before="device", after="data")
    settings.resolve = marked(settings.resolve, after="settings")  # which may time convolutions for a precision
    Trainer.__init__ = marked(Trainer.__init__, before="graph", after="variables")
    Trainer.run_steps = run_steps_and_end
    sys.argv[0] = str(contestant.ROOT / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
