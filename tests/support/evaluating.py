"""evaluate.py on a run that is open already."""

import contextlib

from analysis.options import build_evaluate_parser

# Of `bank_run`, in the order of its tables.
LABELS = [
    "raw",
    "raw/recomputed",
    *(f"ema/{decay}/{policy}" for decay in ("0.90", "0.80") for policy in ("averaged", "raw", "recomputed")),
]


def arguments(*argv):
    """The arguments of a command line of evaluate.py."""
    return build_evaluate_parser().parse_args(list(map(str, argv)))


def leave_open(monkeypatch, module, run):
    """Has a module of analysis find `run` where it would restore one, and leave it open."""
    monkeypatch.setattr(module, "RestoredRun", lambda *_: contextlib.nullcontext(run))
    return run
