"""evaluate.py on the runs of the fixtures."""

from analysis.flags import evaluate_parser

# Of `bank_run`, in the order of its tables.
LABELS = [
    "raw",
    "raw/recomputed",
    *(f"ema/{decay}/{policy}" for decay in ("0.90", "0.80") for policy in ("averaged", "raw", "recomputed")),
]
CLASSES = [f"class {number}" for number in range(10)]  # of synthetic images


def arguments(*argv):
    """Parses a command line of evaluate.py."""
    return evaluate_parser().parse_args(list(map(str, argv)))


def best_on_validation(monkeypatch, run, label):
    """Gives a RestoredRun validation accuracies; `label` is the best average, raw weights are better still."""
    accuracies = dict.fromkeys(LABELS, 0.5) | {"raw": 0.9, label: 0.6}
    monkeypatch.setattr(run, "last_row", run.last_row | {"validation": accuracies})
