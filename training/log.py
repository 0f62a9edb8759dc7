"""The log of a run: to stdout, and to its train.log."""

import logging
import sys

log = logging.getLogger("train")


def send_log_to(path):
    """Sends the log to stdout and, appended, to the file `path`."""
    handlers = [logging.StreamHandler(sys.stdout), logging.FileHandler(path)]
    logging.raiseExceptions = False  # a closed pipe (| head) must not end a run
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers[:] = handlers
