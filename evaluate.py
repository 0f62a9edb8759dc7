"""What a trained run is worth: every classifier compared, other averages made afterwards, one exported, images named.

python evaluate.py table --run_dir runs/20260101-120000      # accuracy with intervals, calibration, exact tests
python evaluate.py posthoc --run_dir runs/20260101-120000    # test accuracy against the width of the average
python evaluate.py export --run_dir runs/20260101-120000 --output model    # a SavedModel of the EMA classifier
python evaluate.py predict --run_dir runs/20260101-120000 cat.jpg photos   # raw and EMA side by side
"""

import sys

import flags as command_line
from errors import UserError, end_quietly, or_exit
from quiet import captured_stderr

if __name__ == "__main__":
    sys.excepthook = end_quietly
    ARGS = command_line.build_evaluate_parser().parse_args()  # before TensorFlow's import, which takes seconds

import csv
import json

with captured_stderr():
    import tensorflow.compat.v1 as tf
import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state

import export
import loop
import posthoc
import predict
import runs
from analysis import statistics
from trained import Trained


def print_table(args):
    """Prints one row per classifier, in the format asked for."""
    with Trained(args.run_dir, args.data_dir) as run:
        rows = statistics.compare({label: run.logits(label) for label in run.graph.logits}, run.dataset.test.labels)
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
        for line in loop.split_gains({row["label"]: row["accuracy"] for row in rows}):
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


def sweep_widths(args):
    """Prints test accuracy against relative width; writes posthoc.json and posthoc.png into the run directory."""
    command_line.load_config(args.run_dir)  # says so where it is no run at all
    snapshots = posthoc.Snapshots(args.run_dir)
    basis = args.basis or snapshots.widths
    unknown = sorted(set(basis) - set(snapshots.widths))
    if unknown:
        raise UserError(
            f"--basis {unknown[0]:g} was not tracked: choose from {', '.join(map(str, snapshots.widths))}", 2
        )
    widths = args.widths or [
        round(float(width), 3) for width in np.geomspace(min(basis) / 2, min(2 * max(basis), 0.25), 10)
    ]
    checked = sorted(set(snapshots.widths) - set(basis))
    results = {
        "basis": basis,
        "relative_errors": {
            f"{width:g}": posthoc.relative_error(made, snapshots.tracked(width))
            for width, made in zip(checked, snapshots.synthesise(checked, basis), strict=True)
        },
        "widths": [],
    }
    for width, error in results["relative_errors"].items():
        print(f"width {width}: made from {basis} and tracked directly, relative weight error {error:.2%}")
    with Trained(args.run_dir, args.data_dir) as run:
        raw = float(np.mean(run.logits("raw/recomputed").argmax(1) == run.dataset.test.labels))
        results["raw/recomputed"] = raw
        print(f"raw weights, recomputed statistics: {100 * raw:.2f}%")
        for width, weights in zip(widths, snapshots.synthesise(widths, basis), strict=True):
            run.load(weights)
            accuracy = float(np.mean(run.logits("raw/recomputed").argmax(1) == run.dataset.test.labels))
            results["widths"].append({"width": width, "accuracy": accuracy})
            print(f"width {width:g}: {100 * accuracy:.2f}%", flush=True)
    runs.write_json(run.path / "posthoc.json", results)
    draw_widths(run.path / "posthoc.png", results)


def draw_widths(path, results):
    widths = [100 * row["width"] for row in results["widths"]]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(widths, [100 * row["accuracy"] for row in results["widths"]], marker="o", label="post-hoc EMA")
    axes.axhline(100 * results["raw/recomputed"], linestyle="--", color="grey", label="raw weights")
    axes.set_xlabel("relative width of the average (% of training)")
    axes.set_ylabel("test accuracy (%), recomputed statistics")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


COMMANDS = {"table": print_table, "posthoc": sweep_widths, "export": export.main, "predict": predict.main}

if __name__ == "__main__":
    tf.disable_eager_execution()
    or_exit(COMMANDS[ARGS.command], ARGS)
