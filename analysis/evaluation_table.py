"""Every classifier of a run on its test set, one row each, as text, JSON or CSV."""

import csv
import json
import sys

from analysis.formatting import Table, as_text
from analysis.restored_run import RestoredRun
from analysis.run_files import predictions_of_step
from analysis.statistics import compare
from training.cli import display_path, show_status
from training.labels import STATISTICS, Label
from training.log import split_gains, wrapped

COLUMNS = ["", "test", "interval", "loss", "ece", "fixed", "broken", "p"]  # with "held out" below 80 columns wide
EXPLANATION = (
    "test: accuracy on the test images, with its 95% interval. ece: expected calibration error. fixed, broken: images "
    "that this classifier alone has right, and its baseline alone; that is the raw weights, of an EMA with recomputed "
    "statistics those with recomputed ones. p: of McNemar's exact test that fixed and broken are equally likely."
)


def main(args):
    """Prints one row per classifier, in the format asked for."""
    run = RestoredRun(args.run_dir, args.data_dir)
    print_rows(run, rows_of(run), args.format)


def rows_of(run):
    """A dict for each classifier of a RestoredRun: what `statistics.compare` says, the step, and whether it is chosen.

    Where images are held out, also its accuracy on these at the last evaluation, `validation`, None where training did
    not evaluate it. The test set has no part in the choice, so the test accuracy of the row chosen is an honest one.
    """
    labels, saved = predictions_of_step(run.path, run.state["step"])  # what training left is not computed again
    if labels is None or run.flags.test_size not in (None, len(labels)):
        labels, saved = run.dataset.test.labels, {}
    logits = {}
    for label in run.labels:
        show_status(f"evaluating {label.display_name} ...")
        logits[str(label)] = saved[str(label)] if str(label) in saved else run.test_logits(label)
    show_status("")
    rows = compare(logits, labels)
    chosen, _ = run.choose()
    for row in rows:
        row |= {"step": run.state["step"], "chosen": row["label"] == str(chosen)}
        if "validation" in run.last:
            row["validation"] = run.last["validation"].get(row["label"])
    return rows


def print_rows(run, rows, style):
    if style == "json":
        print(json.dumps(rows, indent=2))
    elif style == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        print_wrapped(f"{display_path(run.path)} {run.after()}")
        print("", *as_lines(rows), "", sep="\n")
        note = f"* chosen: {run.choose()[1]}; export and predict use it, or what --decay and --batch_stats name."
        print_wrapped(note, EXPLANATION, *split_gains({row["label"]: row["accuracy"] for row in rows}))


def as_lines(rows):
    """The table for a terminal, by batch statistics."""
    labels = [Label.parse(row["label"]) for row in rows]
    cells = [_cells(label, row) for label, row in zip(labels, rows, strict=True)]
    columns = [*COLUMNS, "held out"] if "validation" in rows[0] else COLUMNS
    header, *lines = as_text(Table("", columns, cells)).splitlines()
    grouped = [header]
    for policy in dict.fromkeys(label.statistics for label in labels):
        grouped += [f"{STATISTICS[policy]} statistics"]
        grouped += [line for label, line in zip(labels, lines, strict=True) if label.statistics == policy]
    return grouped


def _cells(label, row):
    """The row of a classifier: accuracies in percent, flips and p-value against its baseline."""
    cells = [f"{'*' if row['chosen'] else ' '} {label.weights_name}", f"{100 * row['accuracy']:.2f}%"]
    cells += [f"{100 * row['low']:.2f}-{100 * row['high']:.2f}", f"{row['loss']:.3f}", f"{row['ece']:.3f}"]
    if row["against"]:
        p = row["p_value"]
        cells += [f"{row['fixed']}", f"{row['broken']}", f"{p:.2g}" if p >= 0.01 else f"{p:.0e}"]
    else:
        cells += ["-"] * 3
    if "validation" in row:
        cells.append("-" if row["validation"] is None else f"{100 * row['validation']:.2f}%")
    return cells


def print_wrapped(*paragraphs):
    """Prints texts in lines of 80 columns; what cannot be broken, such as a path, may be longer."""
    print(*(wrapped(text, others="  ") for text in paragraphs), sep="\n")
