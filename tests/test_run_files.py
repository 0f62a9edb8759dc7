"""Files of a run: which directories are runs, and which rows and predictions are usable."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import given
from support.damage import damages, fuzz
from support.finished_runs import constant, write_run

from analysis import run_files
from training.cli import UserError

EMA = "ema/0.9/raw"


@pytest.fixture
def make(tmp_path):
    """Writes a run directory of the given name with one evaluation."""
    return lambda name="run": write_run(tmp_path / name, classifiers=constant({"raw": 0.5, EMA: 0.6}, 1))


def test_runs_are_found_at_any_depth_once(make, tmp_path, capsys):
    runs = [make("seeds/1"), make("seeds/deep/er/2"), make("seeds/3"), make("other")]
    unfinished = make("seeds/4")
    (unfinished / "metrics.jsonl").write_text("")
    (tmp_path / "link").symlink_to(runs[0])
    assert run_files.resolve_runs([tmp_path / "seeds", runs[0], tmp_path / "link"]) == [runs[0], runs[2], runs[1]]
    assert str(unfinished) in capsys.readouterr().err
    assert run_files.resolve_runs([runs[3], unfinished]) == [runs[3], unfinished]


def test_parent_of_runs_is_refused(make, tmp_path):
    run = make("some runs/1")
    assert run_files.require_single_run(run) == run
    with pytest.raises(UserError, match="--run_dir"):
        run_files.require_single_run(tmp_path / "some runs")


@pytest.mark.parametrize("name", ["", "none", "file"])
def test_no_run_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    for function in (run_files.require_single_run, lambda path: run_files.resolve_runs([path])):
        with pytest.raises(UserError, match=str(tmp_path / name)):
            function(tmp_path / name)


def test_torn_last_line_is_ignored(make):
    path = make()
    rows = run_files.read_run(path).rows
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "raw_acc')
    assert len(rows) == 1 and run_files.read_run(path).rows == rows


@pytest.mark.parametrize(
    "change",
    [{"epoch": 0}, {"classifiers": {"raw": 0.5, EMA: 1.5}}, {"classifiers": {"raw": 0.5, "ema": 0.5}}],
    ids=str,
)
def test_corrupt_metrics_are_named(make, change):
    file = make() / "metrics.jsonl"
    file.write_text(json.dumps(json.loads(file.read_text()) | change) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        run_files.read_run(file.parent)


@pytest.mark.parametrize("text", ["", None])
def test_run_without_evaluation_is_named(make, text):
    path = make()
    (path / "metrics.jsonl").unlink() if text is None else (path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=str(path)):
        run_files.read_run(path)


# ---------------------------------------------------------------------------------------------------------------
# Predictions

ZEROS = np.zeros((3, 10), np.float32)
RAW = np.eye(10, dtype=np.float32)[[0, 2, 0]]  # right twice, the average once
VALID = {"labels": np.array([9, 2, 0], np.uint8), "raw": RAW, EMA: ZEROS + np.arange(10, dtype=np.float32)}
SUMMARY = {"step": 7, "classifiers": {"raw": 2 / 3, EMA: 1 / 3}}


@pytest.fixture
def predicted(make):
    """A FinishedRun with predictions and summary."""
    run = run_files.read_run(make())
    np.savez(run.path / "predictions.npz", **VALID)
    (run.path / "summary.json").write_text(json.dumps(SUMMARY))
    return run


def test_predictions_of_average_and_baseline(predicted):
    predictions = run_files.read_predictions(predicted, EMA)
    assert predictions.labels.tolist() == [9, 2, 0]
    np.testing.assert_array_equal(predictions.ema, VALID[EMA])
    np.testing.assert_array_equal(predictions.baseline, RAW)
    labels, logits = run_files.predictions_of_step(predicted.path, 7)
    assert labels.tolist() == [9, 2, 0] and list(logits) == ["raw", EMA]
    with pytest.raises(UserError, match=r"predictions\.npz"):
        run_files.read_predictions(predicted, "ema/0.99/raw")
    (predicted.path / "predictions.npz").unlink()
    with pytest.raises(UserError, match=r"predictions\.npz"):
        run_files.read_predictions(predicted, EMA)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([1, 2, 10])},
        {"labels": np.array([1.0, 2, 3])},
        {"labels": np.zeros((3, 1), int)},
        {"raw": np.zeros((3, 9))},
        {"raw": np.full((3, 10), np.nan)},
        {"raw": ZEROS[:2]},
        dict.fromkeys(VALID, np.zeros(0, int)),
    ],
    ids=str,
)
def test_invalid_predictions_are_named(predicted, change):
    np.savez(predicted.path / "predictions.npz", **VALID | change)
    with pytest.raises(UserError, match=r"predictions\.npz"):
        run_files.read_predictions(predicted, EMA)
    assert run_files.predictions_of_step(predicted.path, 7) == (None, {})


@pytest.mark.parametrize("change", [{"labels": np.array([0, 3, 1])}, {"raw": VALID[EMA]}, {"raw/recomputed": ZEROS}])
def test_predictions_must_match_the_summary(predicted, change):
    assert run_files.predictions_of_step(predicted.path, 8) == (None, {})
    np.savez(predicted.path / "predictions.npz", **VALID | change)
    assert run_files.predictions_of_step(predicted.path, 7) == (None, {})


@pytest.fixture(scope="module")
def predicted_once(tmp_path_factory):
    path = write_run(tmp_path_factory.mktemp("fuzz") / "run", classifiers=constant({"raw": 0.5, EMA: 0.6}, 1))
    np.savez(path / "predictions.npz", **VALID)
    (path / "summary.json").write_text(json.dumps(SUMMARY))
    return run_files.read_run(path), (path / "predictions.npz").read_bytes()


@fuzz(200)
@given(damage=damages)
def test_corrupt_predictions_never_crash(predicted_once, damage):
    run, content = predicted_once
    (run.path / "predictions.npz").write_bytes(damage(content))
    with contextlib.suppress(UserError):
        run_files.read_predictions(run, EMA)
    run_files.predictions_of_step(run.path, 7)
