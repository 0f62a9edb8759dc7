"""`python train.py ...` up to the end of its first session.run of training, where the process ends; timed from outside.

With as many training images as a batch holds that is one step.
"""

import os
import runpy

import contestant

import loop

run_steps = loop.Run.run_steps


def run_steps_and_end(run):
    run_steps(run)
    os._exit(0)


loop.Run.run_steps = run_steps_and_end
runpy.run_path(str(contestant.ROOT / "train.py"), run_name="__main__")
