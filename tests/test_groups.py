"""Groups of runs: what separates them, what they share, and which average and baseline they are about."""

import shutil

import numpy as np
import pytest
from support.finished_runs import groups_of, level, write_predictions, write_run

from analysis import groups
from training.cli import UserError


def test_what_does_not_shape_the_numbers_does_not_separate_runs(tmp_path):
    write_run(tmp_path / "a", "--seed", 2, "--run_dir", "a", "--data_dir", "x", "--device", "cpu")
    write_run(tmp_path / "b", "--seed", 1, "--run_dir", "b", "--eval_every", 1, "--checkpoint_every", 1, "--xla", "on")
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    assert group.seeds == [1, 2]


@pytest.mark.parametrize(
    "flags",
    ["--lr_cooldown 1", "--validation_size 1", "--label_noise 0.5", "--augment", "--epochs 7", "--dropout 0.25",
     "--strategy mirrored --devices 2", "--ema_start warmup", "--batch_size 32", "--test_size 9"],
)  # fmt: skip
def test_every_flag_of_an_experiment_separates_runs_of_one_seed(tmp_path, flags):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", *flags.split())
    write_run(tmp_path / "c", *flags.split(), "--seed", 1)
    first, second = groups_of(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert first.title != second.title and flags[2:].split(" --")[0].split()[0] in second.title
    assert (first.seeds, second.seeds) == ([0], [0, 1])


def test_the_precision_used_separates_runs_that_asked_for_auto(tmp_path):
    write_run(tmp_path / "a", precision="float32")
    write_run(tmp_path / "b", "--seed", 1, precision="bfloat16")
    titles = [group.title for group in groups_of(tmp_path / "a", tmp_path / "b")]
    assert titles == ["precision float32", "precision bfloat16"]


def test_runs_of_different_length_are_cut_to_what_they_share_and_it_says_so(tmp_path):
    write_run(tmp_path / "long", "--epochs", 3, "--seed", 1, raw=[0.5, 0.6, 0.7], ema=[0.5, 0.6, 0.7])
    write_run(tmp_path / "short", "--epochs", 3, raw=[0.1, 0.2], ema=[0.3, 0.4])
    (group,) = groups_of(tmp_path / "long", tmp_path / "short")
    assert group.epochs == [1, 2]
    assert group.curves["raw"].tolist() == [[0.1, 0.2], [0.5, 0.6]]
    assert {label: values.tolist() for label, values in group.final.items()} == {
        "raw": [0.2, 0.6], "ema/0.998/raw": [0.4, 0.6]
    }  # fmt: skip
    np.testing.assert_allclose(group.gain, [[0.2, 0.2], [0, 0]])
    (stopped,) = group.notes
    assert str(tmp_path / "short") in stopped and "2 of 3" in stopped


def test_runs_made_otherwise_are_noted(tmp_path):
    write_run(tmp_path / "a")
    assert groups_of(tmp_path / "a")[0].notes == []
    write_run(tmp_path / "b", "--seed", 1, git_commit="bad", device="GPU")
    notes = " ".join(groups_of(tmp_path / "a", tmp_path / "b")[0].notes)
    assert "commits" in notes and "devices" in notes and "versions" not in notes


def test_one_seed_may_not_count_twice(tmp_path):
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="seed 0"):
        groups_of(tmp_path / "a", tmp_path / "b")


def test_runs_with_no_epoch_in_common_are_refused(tmp_path):
    write_run(tmp_path / "a", raw=[0.5], ema=[0.5], epochs=[2])
    write_run(tmp_path / "b", "--seed", 1, raw=[0.5], ema=[0.5], epochs=[3])
    with pytest.raises(UserError, match="no epoch"):
        groups_of(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("policy", "against"), [("recomputed", "raw/recomputed"), ("averaged", "raw"), ("raw", "raw")])
def test_the_average_is_the_primary_one_and_its_baseline_the_fair_one(tmp_path, policy, against):
    labels = ["raw", "raw/recomputed", f"ema/0.9/{policy}", "ema/0.8/raw"]
    curves = {label: [0.3 + 0.1 * epoch + 0.01 * index for epoch in range(3)] for index, label in enumerate(labels)}
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=curves))
    assert (group.average, group.against) == (f"ema/0.9/{policy}", against)
    np.testing.assert_array_equal(group.gain, [np.subtract(curves[group.average], curves[against])])
    assert group.compared == list(dict.fromkeys(["raw", against, group.average]))


def test_with_validation_images_the_average_is_the_best_there_over_all_seeds(tmp_path):
    """At the last epoch; on the test images another one is better."""
    labels = ["raw", "ema/0.9/raw", "ema/0.99/raw"]
    for seed, accuracies in enumerate([(0.9, 0.7, 0.6), (0.9, 0.3, 0.6)]):
        early_and_late = {label: [1 - value, value] for label, value in zip(labels, accuracies, strict=True)}
        curves = {"classifiers": level(dict(zip(labels, [0.5, 0.9, 0.7], strict=True)), 2)}
        curves["validation"] = early_and_late
        write_run(tmp_path / str(seed), "--seed", seed, "--validation_size", 9, **curves)
    assert groups_of(tmp_path / "0")[0].average == "ema/0.9/raw"
    both = groups_of(tmp_path)[0]
    assert both.average == "ema/0.99/raw" and "validation" in both.reason
    np.testing.assert_allclose(both.gain[:, -1], 0.2)


def test_predictions_count_where_they_are_of_the_tables_epoch_and_images(tmp_path):
    labels = np.array([3, 1, 4])
    for seed in range(4):
        curves = level({"raw": 0.5, "ema/0.998/raw": 0.5}, 3 if seed == 2 else 2)
        path = write_run(tmp_path / f"seed-{seed}", "--epochs", 3, "--seed", seed, classifiers=curves)
        write_predictions(path, labels[::-1] if seed == 3 else labels, {"raw": labels, "ema/0.998/raw": labels})
    (tmp_path / "seed-1" / "predictions.npz").write_bytes(b"torn")
    found, missing = groups.predictions_of(groups_of(tmp_path)[0])
    assert [one.run.flags.seed for one in found] == [0]
    for seed, phrase in zip((1, 2, 3), missing, strict=True):
        assert f"seed-{seed}" in phrase
