"""The files and the log of a finished run."""

import json
import re

from support.commands import PARAMETERS
from support.files import read_rows

from training import flags


def test_finished_run_has_every_file(finished_run):
    directory, _ = finished_run
    files = {"config.json", "metrics.jsonl", "summary.json", "predictions.npz", "train.log", "curves.png"}
    assert {path.name for path in directory.iterdir()} == {*files, "checkpoints", "tensorboard", ".lock"}
    assert [path.name for path in sorted((directory / "checkpoints").iterdir())] == ["step-000000008", "step-000000016"]
    curves = {str(path.parent.relative_to(directory / "tensorboard")) for path in directory.rglob("events.out.*")}
    assert curves >= {"raw", "0.90"}


def test_metrics_have_a_row_for_each_epoch(finished_run):
    rows = read_rows(finished_run[0])
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 8), (2, 16)]
    for row in rows:
        assert row.keys() >= {"train_accuracy", "images_per_second", "seconds"}
        for name in ("train_accuracy", "raw_accuracy", "ema_accuracy"):
            assert 0 <= row[name] <= 1
        # All 64 test images count, so accuracies are multiples of 1/64.
        assert row["raw_accuracy"] * 64 == int(row["raw_accuracy"] * 64)
        assert row["classifiers"] == {"raw": row["raw_accuracy"], "ema/0.90/raw": row["ema_accuracy"]}
        assert 0 < row["train_loss"] < 10
        assert row["images_per_second"] > 0
    assert 0 < rows[0]["seconds"] < rows[1]["seconds"] < 120


def test_summary_is_the_last_row(finished_run):
    directory, _ = finished_run
    summary, last = json.loads((directory / "summary.json").read_text()), read_rows(directory)[-1]
    assert {name: summary[name] for name in last} == last
    assert summary["gain"] == last["ema_accuracy"] - last["raw_accuracy"]
    assert (summary["baseline"], summary["parameters"], summary["precision"]) == ("raw", PARAMETERS, "float32")
    assert summary["device"].startswith("CPU")


def test_config_has_flags_and_versions(finished_run):
    saved = json.loads((finished_run[0] / "config.json").read_text())
    assert saved["flags"].keys() == vars(flags.parse([])).keys()
    assert (saved["flags"]["width"], saved["flags"]["epochs"], saved["flags"]["ema_decay"]) == (0.05, 2, ["0.90"])
    assert saved["versions"].keys() >= {"python", "tensorflow", "numpy"}
    assert saved["device"].startswith("CPU")
    assert saved["precision"] == "float32"
    assert "git_commit" in saved


def test_log_has_heading_evaluations_and_result(finished_run):
    directory, stdout = finished_run
    assert (directory / "train.log").read_text() == stdout
    rows = read_rows(directory)
    heading, *evaluations = re.split(r"(?m)^ *[12] +(?:8|16) ", stdout)
    for part in ("CPU", "float32", "synthetic", "256", "64", f"{PARAMETERS:,}", directory):
        assert str(part) in heading
    for text, row in zip([*evaluations, stdout.splitlines()[-1]], [*rows, rows[-1]], strict=True):
        raw, ema = (100 * row[f"{name}_accuracy"] for name in ("raw", "ema"))
        for part in (f"{raw:.2f}%", f"{ema:.2f}%", f"{ema - raw:+.2f}"):
            assert part in text.splitlines()[0]
    assert str(directory) in stdout.splitlines()[-1]
