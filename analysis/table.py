"""Every classifier of a run on its test set, one row each, as text, JSON or CSV."""

import csv
import json
import sys
from typing import NamedTuple

import numpy as np

from analysis.predictions import at_the_end
from analysis.run_network import RestoredRun
from analysis.statistics import compare
from training.log import split_gains


class Answers(NamedTuple):
    """What the classifiers of a run say, by label as text."""

    labels: np.ndarray  # true classes of the test images [N]
    logits: dict  # of the test images [N, 10]
    validation: dict  # accuracy on the images held out; empty where none are


def main(args):
    """Prints one row per classifier, in the format asked for."""
    with RestoredRun(args.run_dir, args.data_dir) as run:
        answers = told(run) or asked(run)
    rows = compare(answers.logits, answers.labels)
    print_rows(with_choice(rows, answers.validation) if answers.validation else rows, args.format)


def told(run):
    """The Answers that the run wrote down when it ended, which are not computed again; None where one is missing."""
    saved = at_the_end(run.path, run.state["step"])
    names = list(map(str, run.labels))
    if not saved.keys() >= {"labels", *names}:
        return None
    return Answers(saved["labels"], {name: saved[name] for name in names}, run.state["rows"][-1].get("validation", {}))


def asked(run):
    """The Answers of the run's newest checkpoint."""
    logits, validation = {}, {}
    for label in run.labels:
        logits[str(label)] = run.test_logits(label)
        if held_out := run.dataset.validation:
            validation[str(label)] = float(np.mean(run.logits(held_out.images).argmax(1) == held_out.labels))
    return Answers(run.dataset.test.labels, logits, validation)


def with_choice(rows, validation):
    """The rows with their accuracy on the images held out, and `chosen`: true for the EMA that is the best there.

    The test set has no part in the choice, so the test accuracy of the row chosen is an honest one.

    Args:
      rows: of `compare`.
      validation: label to accuracy.
    """
    averages = [label for label in validation if label.startswith("ema/")]
    best = max(averages, key=validation.get)
    return [row | {"validation": validation[row["label"]], "chosen": row["label"] == best} for row in rows]


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
        if "validation" in row:
            lines[-1] += f"  {100 * row['validation']:9.2f}%{' *' if row['chosen'] else ''}"
    if "validation" in rows[0]:
        lines[0] += "  validation"
        lines.append("* the EMA chosen: the best on the validation images")
    return "\n".join(lines)
