"""evaluate.py table: one row per classifier of a run, as text, JSON or CSV."""

import csv
import json
import sys

from analysis.formatting import Table, as_text, print_wrapped
from analysis.restored_run import RestoredRun
from analysis.run_files import predictions_of_step
from analysis.statistics import compare
from training.cli import display_path, show_status
from training.labels import STATISTICS, Label
from training.log import split_gains

COLUMNS = ["", "test", "interval", "loss", "ece", "fixed", "broken", "p"]
EXPLANATION = (
    "test: accuracy on the test images, with its 95% interval. ece: expected calibration error. fixed / broken: images "
    "only this classifier / only its baseline gets right. Baseline: the raw weights (with recomputed statistics if the "
    "EMA has them). p: McNemar's exact test of fixed = broken."
)


def main(args):
    """Prints the table in the format of --format."""
    run = RestoredRun(args.run_dir, args.data_dir)
    print_rows(run, evaluate(run), args.format)


def evaluate(run):
    """Returns one dict per classifier of a RestoredRun: the keys of `statistics.compare`, `step` and `chosen`.

    With validation images there is also `validation`, the accuracy of the last evaluation (None if training did not
    evaluate the classifier). The choice does not use the test set, so the chosen row's test accuracy is unbiased.
    """
    labels, saved = predictions_of_step(run.path, run.state["step"])
    if labels is None or run.flags.test_size not in (None, len(labels)):
        labels, saved = run.dataset.test.labels, {}
    logits = {}
    for label in run.labels:
        show_status(f"evaluating {label.display_name} ...")
        logits[str(label)] = saved[str(label)] if str(label) in saved else run.test_logits(label)
    show_status("")
    best, _ = run.choose()
    rows = compare(logits, labels)
    for row in rows:
        row |= {"step": run.state["step"], "chosen": row["label"] == str(best)}
        if "validation" in run.last_row:
            row["validation"] = run.last_row["validation"].get(row["label"])
    return rows


def print_rows(run, rows, style):
    if style == "json":
        print(json.dumps(rows, indent=2))
    elif style == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print_wrapped(f"{display_path(run.path)} {run.describe_step()}")
        print("", *as_lines(rows), "", sep="\n")
        print_wrapped(f"* chosen: {run.choose()[1]}; export and predict use it unless --decay or --batch_stats is set.")
        print_wrapped(EXPLANATION, *split_gains({row["label"]: row["accuracy"] for row in rows}))


def as_lines(rows):
    """Returns the lines of the table, grouped by batch statistics."""
    columns = [*COLUMNS, "valid."] if "validation" in rows[0] else COLUMNS  # at most 80 characters wide
    header, *lines = as_text(Table("", columns, list(map(_cells, rows)))).splitlines()
    groups = {}
    for row, line in zip(rows, lines, strict=True):
        groups.setdefault(Label.parse(row["label"]).statistics, []).append(line)
    grouped = [header]
    for policy, members in groups.items():
        grouped += [f"{STATISTICS[policy]} statistics", *members]
    return grouped


def _cells(row):
    star, flips = "*" if row["chosen"] else " ", ["-", "-", "-"]
    if row["against"]:
        flips = [
            str(row["fixed"]),
            str(row["broken"]),
            format(row["p_value"], ".2g" if row["p_value"] >= 0.01 else ".0e"),
        ]
    cells = [f"{star} {Label.parse(row['label']).weights_name}", f"{100 * row['accuracy']:.2f}%"]
    cells += [f"{100 * row['low']:.2f}-{100 * row['high']:.2f}", f"{row['loss']:.3f}", f"{row['ece']:.3f}", *flips]
    if "validation" in row:
        cells.append("-" if row["validation"] is None else f"{100 * row['validation']:.2f}%")
    return cells
