"""Run directories as train.py leaves them, written without training, and the groups that the report makes of them."""

import json

import numpy as np
from training.options import build_parser

import data
from analysis import finished, gallery, groups

RAW, EMA = [0.60, 0.70, 0.75], [0.20, 0.71, 0.78]
STEPS = 781  # per epoch


def write_run(path, *argv, raw=RAW, ema=EMA, classifiers=None, validation=None, epochs=None, **config):
    """A run directory with the flags of a command line.

    Args:
      raw, ema: accuracies over epochs, of the labels "raw" and "ema/0.998/raw".
      classifiers: instead, label to accuracies over epochs; it holds "raw".
      validation: label to accuracies over epochs.
      epochs: those that were evaluated, 1, 2, ... if not given.
    """
    path.mkdir(parents=True)
    curves = classifiers or {"raw": raw, "ema/0.998/raw": ema}
    primary = next(label for label in curves if label.startswith("ema/"))
    epochs = epochs or list(range(1, len(curves["raw"]) + 1))
    flags = build_parser().parse_args(["--epochs", str(len(epochs)), *map(str, argv)])
    made = {"precision": "float32", "device": "CPU", "versions": {"numpy": "2.0.0"}, "git_commit": "c0ffee"}
    (path / "config.json").write_text(json.dumps({"flags": vars(flags), **made, **config}))
    rows = []
    for index, epoch in enumerate(epochs):
        now = {label: float(curve[index]) for label, curve in curves.items()}
        row = {"epoch": epoch, "step": STEPS * epoch, "raw_accuracy": now["raw"], "ema_accuracy": now[primary]}
        row["classifiers"] = now
        if validation:
            row["validation"] = {label: curve[index] for label, curve in validation.items()}
        rows.append(row)
    write_rows(path, rows)
    return path


def write_rows(path, rows):
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def level(accuracies, epochs=3):
    """Classifiers for `write_run`: label to the same accuracy after each epoch, of label to accuracy."""
    return {label: [accuracy] * epochs for label, accuracy in accuracies.items()}


def write_seeds(path, curves):
    """Runs that differ by seed, in path/seed-<seed>; curves: label to accuracies [S, E]."""
    for seed in range(len(curves["raw"])):
        of_seed = {label: np.asarray(curve)[seed].tolist() for label, curve in curves.items()}
        write_run(path / f"seed-{seed}", "--seed", seed, classifiers=of_seed)
    return path


def groups_of(*paths):
    return groups.make_groups([finished.read_run(path) for path in finished.expand(paths)])


LABELS = np.array([3, 1, 4, 1, 5])
RAW_ANSWERS, EMA_ANSWERS = np.array([3, 2, 4, 1, 0]), np.array([3, 1, 9, 1, 7])  # EMA mends 1 and breaks 2


def write_predictions(path, labels=LABELS, raw=RAW_ANSWERS, ema=EMA_ANSWERS, **more):
    """predictions.npz of the answers [N] given; more: label to answers."""
    answers = {"raw": raw, "ema/0.998/raw": ema, **more}
    logits = {label: np.eye(10, dtype=np.float32)[answer] for label, answer in answers.items()}
    np.savez(path / "predictions.npz", labels=labels, **logits)
    return path


def stand_in_images(monkeypatch, random):
    """Has the gallery find random images of LABELS in place of a data set; returns them [N, 32, 32, 3]."""
    split = data.Split(random.integers(0, 256, (len(LABELS), 32, 32, 3), dtype=np.uint8), LABELS)
    monkeypatch.setattr(gallery, "load_test_split", lambda *arguments: split)
    return split.images
