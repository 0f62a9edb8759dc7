"""Every classifier of a run on its test set, one row each, as text, JSON or CSV."""

import csv
import json
import sys

from analysis.restored import RestoredRun
from analysis.statistics import compare
from training.console import split_gains


def main(args):
    """Prints one row per classifier, in the format asked for."""
    with RestoredRun(args.run_dir, args.data_dir) as run:
        logits = {str(label): run.test_logits(label) for label in run.labels}
        rows = compare(logits, run.dataset.test.labels)
    print_rows(rows, args.format)


def print_rows(rows, style):
    if style == "json":
        print(json.dumps(rows, indent=2))
    elif style == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print(as_text(rows))
        for line in split_gains({row["label"]: row["accuracy"] for row in rows}):
            print(line)


def as_text(rows):
    """The table for a terminal: accuracy and interval in percent, flips and p-value against each one's own baseline."""
    width = max(len(row["label"]) for row in rows)
    wide = max(len(row["against"] or "against") for row in rows)
    header = "accuracy       95% interval    loss    ece  fixed  broken  p-value"
    lines = [f"{'classifier':<{width}}  {header}  {'against':>{wide}}"]
    for row in rows:
        against = ("    -", "     -", "      -", f"{'-':>{wide}}")
        if row["against"]:
            flips = (f"{row['fixed']:5d}", f"{row['broken']:6d}", f"{row['p_value']:7.2g}")
            against = (*flips, f"{row['against']:>{wide}}")
        percent = f"{100 * row['accuracy']:6.2f}%   {100 * row['low']:6.2f} ..{100 * row['high']:6.2f}%"
        lines.append(f"{row['label']:<{width}}   {percent}  {row['loss']:6.4f} {row['ece']:6.4f}  {'  '.join(against)}")
    return "\n".join(lines)
