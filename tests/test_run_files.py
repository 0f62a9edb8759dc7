"""The files of a run, read: which directories are runs, and what is damage."""

import contextlib
import json
import shlex

import numpy as np
import pytest

from analysis import run_files
from training.cli import UserError
from training.flags import build_parser

LABELS = ("raw", "ema/0.9/raw")
GOOD = {"epoch": 1, "step": 781, "raw_accuracy": 0.5, "ema_accuracy": 0.6, "classifiers": {"raw": 0.5, LABELS[1]: 0.6}}


@pytest.fixture
def make(tmp_path):
    """Writes a run directory of a name and rows, as train.py leaves one."""

    def make(name="run", rows=(GOOD,), text=""):
        path = tmp_path / name
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps({"flags": vars(build_parser().parse_args([]))}))
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + text)
        return path

    return make


# ---------------------------------------------------------------------------------------------------------------
# Directories


def test_runs_are_found_however_deep_and_each_once(make, tmp_path):
    runs = [make("seeds/1"), make("seeds/deep/er/2"), make("seeds/3"), make("other")]
    make("seeds/3/copy")  # a run's own directories are its own
    make("seeds/.hidden")
    (tmp_path / "seeds" / "empty").mkdir()
    (tmp_path / "seeds" / "up").symlink_to(tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "run").symlink_to(runs[0])
    assert run_files.resolve_runs([tmp_path / "seeds", runs[0], tmp_path / "links"]) == [runs[0], runs[2], runs[1]]
    assert run_files.resolve_runs([runs[3]]) == [runs[3]]
    assert run_files.resolve_runs([tmp_path / "links"]) == [tmp_path / "links" / "run"]


def test_a_parent_of_runs_names_them_and_the_report(make, tmp_path):
    runs = [make("some runs/1"), make("some runs/deep/2")]
    assert run_files.require_single_run(runs[0]) == runs[0]
    with pytest.raises(UserError, match=r"1, deep/2.*--run_dir.*report\.py") as error:
        run_files.require_single_run(tmp_path / "some runs")
    command = shlex.split(str(error.value).partition("with ")[2])[-2:]
    assert command[0].endswith("report.py") and run_files.resolve_runs(command[1:]) == runs


def test_what_holds_no_run_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        for function in (run_files.require_single_run, lambda path: run_files.resolve_runs([path])):
            with pytest.raises(UserError, match=f"{path} holds no run"):
                function(path)


# ---------------------------------------------------------------------------------------------------------------
# Evaluations


def test_a_torn_last_line_is_what_a_crash_leaves(make):
    assert run_files.read_run(make("run", text='{"epoch": 4, "raw_acc')).rows == [GOOD]
    assert run_files.read_run(make("whole", text=json.dumps(GOOD))).rows == [
        GOOD,
        GOOD,
    ]  # an editor took the line break


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{torn", "damaged"),
        ("[1]", "damaged"),
        ("[" * 100_000, "damaged"),
        ("\udcff\udcfe", "damaged"),
        ({"raw_accuracy": None}, "damaged"),
        ({"raw_accuracy": float("nan")}, "no fraction"),
        ({"ema_accuracy": 75.0}, "no fraction"),
        ({"raw_accuracy": "0.5"}, "damaged"),
        ({"epoch": "1"}, "epoch '1'"),
        ({"epoch": 0}, "epoch 0"),
        ({"step": 0.5}, r"step 0\.5"),
        ({"classifiers": [1]}, "damaged"),
        ({"classifiers": {}}, "lacks raw or averaged"),
        ({"classifiers": {"raw": 0.5, "ema": 0.5}}, "'ema' is not the label"),
        ({"classifiers": {"raw": 0.5, "ema/0.9/raw": 1.5}}, "ema/0.9/raw 1.5 is no fraction"),
        ({"classifiers": {"raw": 0.5, "ema/0.123/raw": 0.5}}, "different classifiers"),
        ({"validation": {"raw": float("nan")}}, "raw nan is no fraction"),
        ({"validation": 0.5}, "damaged"),
        ({"validation": {"raw": 0.5, "ema/0.8/raw": 0.5}}, "of other classifiers"),
        ({"validation": {"zzz": 0.5}}, "of other classifiers"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_damaged_metrics_are_named(make, line, what):
    file = make() / "metrics.jsonl"
    line = json.dumps(GOOD | line) if isinstance(line, dict) else line
    file.write_bytes(line.encode(errors="surrogateescape") + b"\n" + file.read_bytes())
    with pytest.raises(UserError, match=what) as error:
        run_files.read_run(file.parent)
    assert str(file) in str(error.value)


def test_a_run_without_an_evaluation_is_named(make):
    path = make("run", rows=())
    for _ in range(2):
        with pytest.raises(UserError, match=f"{path} holds no evaluation yet"):
            run_files.read_run(path)
        (path / "metrics.jsonl").unlink(missing_ok=True)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"flags": {"width": -1}}', '{"flags": {}, "versions": 1}'])
def test_a_damaged_config_is_named(make, content):
    path = make()
    (path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"run/config\.json is damaged"):
        run_files.read_run(path)


# ---------------------------------------------------------------------------------------------------------------
# Predictions

ZEROS = np.zeros((3, 10), np.float32)
RAW = np.eye(10, dtype=np.float32)[[0, 2, 0]]  # right twice, the average once
SOUND = {"labels": np.array([9, 2, 0], np.uint8), "raw": RAW, "ema/0.9/raw": ZEROS + np.arange(10, dtype=np.float32)}
SUMMARY = {"step": 7, "classifiers": {"raw": 2 / 3, LABELS[1]: 1 / 3}}


def test_predictions_are_of_an_average_and_its_baseline(make):
    run = run_files.read_run(make())
    with pytest.raises(UserError, match=r"holds no predictions\.npz"):
        run_files.read_predictions(run, LABELS[1])
    np.savez(run.path / "predictions.npz", **SOUND, **{"raw/recomputed": ZEROS + 1})
    found = run_files.read_predictions(run, LABELS[1])
    assert (found.epoch, found.labels.dtype, found.labels.tolist()) == (1, np.int64, [9, 2, 0])
    np.testing.assert_array_equal(found.ema, SOUND[LABELS[1]])
    np.testing.assert_array_equal(found.baseline, RAW)
    with pytest.raises(UserError, match="lacks an array"):
        run_files.read_predictions(run, "ema/0.99/raw")


def test_any_byte_of_the_predictions_may_be_damaged(make):
    """The flags of a zip file ask for encryption, patches, versions to come."""
    run = run_files.read_run(make())
    (run.path / "summary.json").write_text(json.dumps(SUMMARY))
    file = run.path / "predictions.npz"
    np.savez(file, **SOUND)
    content = file.read_bytes()
    for place in [*range(150), *range(len(content) - 300, len(content))]:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(UserError):
            run_files.read_predictions(run, LABELS[1])
        run_files.predictions_of_step(run.path, 7)


def test_damaged_predictions_are_named_or_computed_anew(make):
    labels = [np.array([1, 2, 10]), np.array([1.0, 2, 3]), np.zeros((3, 1), int), np.array([{}, {}, {}])]
    scores = [np.zeros((3, 9)), ZEROS.astype(int), np.full((3, 10), np.nan), ZEROS[:2]]
    wrong = [{"labels": one} for one in labels] + [{"raw": one} for one in scores]
    run = run_files.read_run(make())
    (run.path / "summary.json").write_text(json.dumps(SUMMARY))
    for one in [*wrong, dict.fromkeys(SOUND, np.zeros(0, int))]:
        np.savez(run.path / "predictions.npz", **SOUND | one)
        with pytest.raises(UserError, match=r"predictions\.npz is damaged"):
            run_files.read_predictions(run, LABELS[1])
        assert run_files.predictions_of_step(run.path, 7) == (None, {})


def test_predictions_that_are_not_those_of_the_summary_are_computed_anew(make):
    path = make()
    (path / "summary.json").write_text(json.dumps(SUMMARY))
    for change in ({}, {"labels": np.array([0, 3, 1])}, {"raw": SOUND[LABELS[1]]}, {"raw/recomputed": ZEROS}):
        np.savez(path / "predictions.npz", **SOUND | change)
        found, scores = run_files.predictions_of_step(path, 7)
        assert scores.keys() == (set() if change else set(LABELS)) and (found is None) == bool(change)
