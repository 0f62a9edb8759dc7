"""Groups of runs: what separates them, what they share, and which baseline a gain is taken over."""

import shutil

import numpy as np
import pytest
from support.files import read_rows
from support.finished_runs import EMA, RAW, groups_of, level, write_rows, write_run
from training.errors import UserError

from analysis.baselines import baseline_of, primary


def test_what_does_not_shape_the_numbers_does_not_separate_runs(tmp_path):
    write_run(tmp_path / "a", "--seed", 2, "--run_dir", "a", "--data_dir", "x", "--device", "cpu")
    write_run(tmp_path / "b", "--seed", 1, "--run_dir", "b", "--eval_every", 1)
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    assert [run.flags.seed for run in group.runs] == [1, 2]


def test_what_shapes_the_numbers_separates_runs_and_names_their_groups(tmp_path):
    write_run(tmp_path / "a", "--width", 0.5, "--seed", 1)
    write_run(tmp_path / "b", "--width", 0.25)
    write_run(tmp_path / "c", "--width", 0.5)
    found = groups_of(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert [group.title for group in found] == ["width 0.5", "width 0.25"]
    assert [len(group.runs) for group in found] == [2, 1]


@pytest.mark.parametrize("flag", ["--lr_cooldown", "--validation_size", "--label_noise", "--label_smoothing"])
def test_every_flag_of_an_experiment_separates_runs(tmp_path, flag):
    value = 1 if flag in ("--lr_cooldown", "--validation_size") else 0.5
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", flag, value)
    first, second = groups_of(tmp_path / "a", tmp_path / "b")
    assert first.title.endswith(f"{flag[2:]} {type(value)(0)}")
    assert second.title.endswith(f"{flag[2:]} {value}")


def test_replicas_shape_the_numbers(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "--strategy", "mirrored", "--devices", 2)
    write_run(tmp_path / "c", "--strategy", "mirrored", "--devices", 4)
    assert len(groups_of(tmp_path / "a", tmp_path / "b", tmp_path / "c")) == 3


def test_the_number_of_epochs_separates_runs_with_a_cooldown_only(tmp_path):
    write_run(tmp_path / "a", "--epochs", 5)
    write_run(tmp_path / "b", "--epochs", 6, "--seed", 1)
    assert len(groups_of(tmp_path / "a", tmp_path / "b")) == 1
    write_run(tmp_path / "c", "--epochs", 5, "--lr_cooldown", 2)
    write_run(tmp_path / "d", "--epochs", 6, "--lr_cooldown", 2, "--seed", 1)
    assert len(groups_of(tmp_path / "c", tmp_path / "d")) == 2


def test_the_precision_used_separates_runs_that_asked_for_auto(tmp_path):
    write_run(tmp_path / "a", precision="float32")
    write_run(tmp_path / "b", "--seed", 1, precision="bfloat16")
    assert [group.title for group in groups_of(tmp_path / "a", tmp_path / "b")] == [
        "precision float32",
        "precision bfloat16",
    ]


def test_runs_of_different_length_are_cut_to_what_they_share_and_it_says_so(tmp_path):
    write_run(tmp_path / "long", "--seed", 1, raw=[0.5, 0.6, 0.7], ema=[0.5, 0.6, 0.7])
    write_run(tmp_path / "short", raw=[0.1, 0.2], ema=[0.3, 0.4])
    (group,) = groups_of(tmp_path / "long", tmp_path / "short")
    assert group.epochs == [1, 2]
    assert group.raw.tolist() == [[0.1, 0.2], [0.5, 0.6]]
    assert [accuracy.tolist() for accuracy in group.classifiers.values()] == [[0.2, 0.6], [0.4, 0.6]]
    assert [row["epoch"] for row in group.last_rows] == [2, 2]
    (note,) = group.notes
    assert "long at epoch 3" in note and "short at epoch 2" in note and "cut to the 2" in note


def test_a_run_that_stopped_early_and_a_classifier_that_only_some_have_are_told(tmp_path):
    write_run(tmp_path / "a", "--epochs", 9)
    more = {"raw": RAW, "ema/0.998/raw": EMA, "ema/0.9/raw": RAW}
    write_run(tmp_path / "b", "--epochs", 9, "--seed", 1, classifiers=more, git_commit="bad")
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    told = " ".join(group.notes)
    assert "stopped at epoch 3 of 9" in told and "ema/0.9/raw" in told and "different commits" in told
    assert list(group.classifiers) == ["raw", "ema/0.998/raw"]


def test_one_seed_may_not_count_twice(tmp_path):
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="seed 0"):
        groups_of(tmp_path / "a", tmp_path / "b")


def test_runs_with_no_epoch_in_common_are_refused(tmp_path):
    write_run(tmp_path / "a", raw=[0.5], ema=[0.5], epochs=[2])
    write_run(tmp_path / "b", "--seed", 1, raw=[0.5], ema=[0.5], epochs=[3])
    with pytest.raises(UserError, match="no epoch was evaluated in all of"):
        groups_of(tmp_path / "a", tmp_path / "b")


# ---------------------------------------------------------------------------------------------------------------
# The primary EMA and its baseline


def test_the_primary_is_the_first_average():
    assert primary(["raw", "raw/recomputed", "ema/0.9/averaged", "ema/0.99/raw"]) == "ema/0.9/averaged"
    assert primary(["raw"]) is None


@pytest.mark.parametrize(
    ("label", "labels", "against"),
    [
        ("raw", ["raw"], None),
        ("raw/recomputed", ["raw"], "raw"),
        ("ema/0.9/raw", ["raw", "raw/recomputed"], "raw"),
        ("ema/0.9/averaged", ["raw", "raw/recomputed"], "raw"),
        ("ema/0.9/recomputed", ["raw", "raw/recomputed"], "raw/recomputed"),
        ("ema/0.9/recomputed", ["raw"], "raw"),
    ],
)
def test_the_baseline_is_the_fair_one_where_it_was_evaluated(label, labels, against):
    assert baseline_of(label, labels) == against


def curves(*labels):
    """Label to accuracies over three epochs, all of them different."""
    return {label: [0.3 + 0.1 * epoch + 0.01 * index for epoch in range(3)] for index, label in enumerate(labels)}


@pytest.mark.parametrize(("policy", "against"), [("recomputed", "raw/recomputed"), ("averaged", "raw"), ("raw", "raw")])
def test_the_arrays_are_of_the_first_average_and_of_its_own_baseline(tmp_path, policy, against):
    accuracies = curves("raw", "raw/recomputed", f"ema/0.9/{policy}", "ema/0.95/raw", "ema/0.8/raw")
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=accuracies))
    assert (group.primary, group.against) == (f"ema/0.9/{policy}", against)
    np.testing.assert_array_equal(group.raw, [accuracies["raw"]])
    np.testing.assert_array_equal(group.baseline, [accuracies[against]])
    np.testing.assert_array_equal(group.ema, [accuracies[f"ema/0.9/{policy}"]])
    assert group.notes == []


def test_where_the_fair_baseline_was_not_evaluated_raw_is_and_it_says_so(tmp_path):
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=curves("raw", "ema/0.9/recomputed")))
    assert group.against == "raw"
    np.testing.assert_array_equal(group.baseline, group.raw)
    assert group.notes == [
        "Not every evaluation has raw/recomputed, the fair baseline of ema/0.9/recomputed: its gain is taken over raw."
    ]


def test_a_baseline_that_only_some_runs_have_is_none(tmp_path):
    write_run(tmp_path / "a", classifiers=curves("raw", "raw/recomputed", "ema/0.9/recomputed"))
    write_run(tmp_path / "b", "--seed", 1, classifiers=curves("raw", "ema/0.9/recomputed"))
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    assert group.against == "raw" and len(group.notes) == 2


def test_rows_without_classifiers_are_enough(tmp_path):
    path = write_run(tmp_path / "run")
    write_rows(path, [{key: row[key] for key in row if key != "classifiers"} for row in read_rows(path)])
    (group,) = groups_of(path)
    assert group.raw[0].tolist() == group.baseline[0].tolist() == RAW
    assert group.ema[0].tolist() == EMA
    assert (group.primary, group.name, group.against) == (None, "EMA", "raw")
    assert group.notes == []


def test_runs_that_name_different_averages_first_are_reported_by_what_each_calls_its_own(tmp_path):
    write_run(tmp_path / "a", classifiers=level({"raw": 0.5, "ema/0.9/raw": 0.6}))
    write_run(tmp_path / "b", "--seed", 1, classifiers=level({"raw": 0.4, "ema/0.90/raw": 0.7}))
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    assert group.primary is None
    assert group.ema[:, -1].tolist() == [0.6, 0.7]
