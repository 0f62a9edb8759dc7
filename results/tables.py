"""Prints the README's table of starts and policies as Markdown: `python results/tables.py results/starts/*`."""

import json
import sys
from pathlib import Path


def rows(run_dir):
    """(seed, start, label, accuracies by epoch) of every classifier of a run."""
    flags = json.loads((Path(run_dir) / "config.json").read_text())["flags"]
    metrics = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    for label in metrics[0]["classifiers"]:
        start = flags["ema_start"] if label.startswith("ema/") else "-"
        yield flags["seed"], start, label, tuple(100 * row["classifiers"][label] for row in metrics)


def main(run_dirs):
    # The raw weights of one seed are the same whatever averages are tracked beside them: one row is enough.
    found = dict.fromkeys(row for run_dir in run_dirs for row in rows(run_dir))
    found = sorted(found, key=lambda row: (row[0], row[1] != "-", row[1]))
    epochs = len(found[0][3])
    print("| seed | `--ema_start` | classifier |" + "".join(f" epoch {epoch + 1} |" for epoch in range(epochs)))
    print("|---|---|---|" + "---:|" * epochs)
    for seed, start, label, accuracies in found:
        print(f"| {seed} | {start} | `{label}` |" + "".join(f" {accuracy:.2f} |" for accuracy in accuracies))


if __name__ == "__main__":
    main(sys.argv[1:])
