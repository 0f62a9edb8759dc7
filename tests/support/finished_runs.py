"""Run directories as train.py leaves them, written without training, and the groups that the report makes of them."""

import json

import numpy as np

import report
from analysis import flags, groups, run_files
from training.flags import build_parser
from training.labels import Label

RAW, EMA = [0.60, 0.70, 0.75], [0.20, 0.71, 0.78]
STEPS = 781  # per epoch


def write_run(path, *argv, raw=RAW, ema=EMA, classifiers=None, validation=None, epochs=None, **config):
    """Writes a run directory; --ema_decay and --ema_batch_stats follow from the classifiers.

    Args:
      argv: other flags of the run.
      raw, ema: accuracies over epochs of the labels "raw" and "ema/0.998/raw".
      classifiers: instead of these two, {label: accuracies over epochs} with "raw".
      validation: {label: accuracies over epochs}.
      epochs: evaluated epochs, by default 1, 2, ...
    """
    path.mkdir(parents=True)
    curves = classifiers or {"raw": raw, "ema/0.998/raw": ema}
    averages = [label for label in map(Label.parse, curves) if label.weights == "ema"]
    epochs = epochs or list(range(1, len(curves["raw"]) + 1))
    tracked = ["--ema_decay", *dict.fromkeys(label.decay for label in averages)]
    tracked += ["--ema_batch_stats", *dict.fromkeys(label.statistics for label in averages)]
    parsed = build_parser().parse_args(["--epochs", str(len(epochs)), *tracked, *map(str, argv)])
    made = {"precision": "float32", "device": "CPU", "versions": {"numpy": "2.0.0"}, "git_commit": "c0ffee"}
    (path / "config.json").write_text(json.dumps({"flags": vars(parsed), **made, **config}))
    rows = []
    for index, epoch in enumerate(epochs):
        accuracies = {label: float(curve[index]) for label, curve in curves.items()}
        row = {"epoch": epoch, "step": STEPS * epoch, "raw_accuracy": accuracies["raw"]}
        row |= {"ema_accuracy": accuracies[str(averages[0])], "classifiers": accuracies}
        if validation:
            row["validation"] = {label: curve[index] for label, curve in validation.items()}
        rows.append(row)
    write_rows(path, rows)
    return path


def write_rows(path, rows):
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def constant(accuracies, epochs=3):
    """Returns classifiers for `write_run` with the same accuracy after each epoch, from {label: accuracy}."""
    return {label: [accuracy] * epochs for label, accuracy in accuracies.items()}


def write_seeds(path, curves):
    """Writes runs that differ by seed into path/seed-<seed>; curves: {label: accuracies [S, E]}."""
    for seed in range(len(curves["raw"])):
        classifiers = {label: np.asarray(curve)[seed].tolist() for label, curve in curves.items()}
        write_run(path / f"seed-{seed}", "--seed", seed, classifiers=classifiers)
    return path


def groups_of(*paths):
    return groups.make_groups([run_files.read_run(path) for path in run_files.resolve_runs(paths)])


def write_predictions(path, labels, answers):
    """Writes predictions.npz of true classes [N] and {label: answers [N] or logits [N, 10]}; returns the path."""
    logits = {}
    for label, values in answers.items():
        logits[label] = values if np.ndim(values) == 2 else np.eye(10, dtype=np.float32)[values]
    np.savez(path / "predictions.npz", labels=labels, **logits)
    return path


def make_report(*argv):
    """Calls report.main with a command line."""
    report.main(flags.report_parser().parse_args(list(map(str, argv))))


def write_experiment(folder, run, curves, validation=None, argv=(), precision="bfloat16"):
    """Writes a finished run of results/experiments.py into folder/<its name>.

    Args:
      curves, validation: {label: accuracy, constant or for each evaluation}; other labels get 0.5.
      argv: flags in addition to the run's.
    """
    parsed = build_parser().parse_args([*run.flags.split(), *argv])
    epochs = list(range(parsed.eval_every, parsed.epochs + 1, parsed.eval_every))
    averages = [f"ema/{decay}/{policy}" for decay in parsed.ema_decay for policy in parsed.ema_batch_stats]

    def full(values):
        labels = ["raw", "raw/recomputed", *averages]
        return {label: np.broadcast_to(values.get(label, 0.5), len(epochs)).tolist() for label in labels}

    options = {"validation": validation and full(validation), "epochs": epochs, "precision": precision}
    path = write_run(folder / run.name, *run.flags.split(), *argv, classifiers=full(curves), **options)
    (path / "summary.json").write_text(json.dumps({"epoch": parsed.epochs}))
    (path / "train.log").write_text("")
    return path
