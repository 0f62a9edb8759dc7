"""Groups of runs: which flags separate them, what they share, and their average and baseline."""

import shutil

import numpy as np
import pytest
from support.finished_runs import constant, groups_of, write_predictions, write_run

from analysis import groups
from training.cli import UserError
from training.flags import as_argv, build_parser

# Flags whose values have to be spelled out: no number, or not any number.
VALUES = {"dataset": "synthetic", "device": "cpu", "xla": "on", "precision": "bfloat16", "strategy": "mirrored",
          "ema_start": "warmup", "ema_batch_stats": ["raw", "recomputed"], "ema_decay": ["0.9"], "ema_power": [0.1],
          "data_dir": "/x", "run_dir": "/x", "augment": True, "resume": True, "label_noise": 0.5, "dropout": 0.25,
          "learning_rate": 0.5, "adam_beta1": 0.25, "width": 0.5, "checkpoint_every": 1.0}  # fmt: skip
DEFAULTS = vars(build_parser().parse_args([]))


@pytest.mark.parametrize("flag", DEFAULTS)
def test_every_flag_separates_or_is_ignored(flag):
    changed = build_parser().parse_args(as_argv({flag: VALUES.get(flag, 7)}))
    assert getattr(changed, flag) != DEFAULTS[flag]
    precisions = ("float32", "bfloat16" if flag == "precision" else "float32")  # the precision used, not the flag
    configs = [
        groups.separating_flags(parsed, precision)
        for parsed, precision in zip((build_parser().parse_args([]), changed), precisions, strict=True)
    ]
    assert (configs[0] == configs[1]) == (flag in groups.IGNORED_FLAGS)


def test_ignored_flags_share_a_group(tmp_path):
    write_run(tmp_path / "a", "--seed", 2, "--run_dir", "a", "--data_dir", "x", "--device", "cpu")
    write_run(tmp_path / "b", "--seed", 1, "--run_dir", "b", "--checkpoint_every", 1, "--xla", "on")
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    assert group.seeds == [1, 2]


def test_title_names_the_difference(tmp_path):
    write_run(tmp_path / "a", precision="float32")
    write_run(tmp_path / "b", "--seed", 1, precision="bfloat16")
    assert [group.title for group in groups_of(tmp_path)] == ["precision float32", "precision bfloat16"]
    write_run(tmp_path / "c", "--dropout", 0.25)
    assert groups_of(tmp_path / "a", tmp_path / "c")[1].title == "dropout 0.25, precision float32"


def test_runs_are_cut_to_common_epochs(tmp_path):
    write_run(tmp_path / "long", "--epochs", 3, "--seed", 1, raw=[0.5, 0.6, 0.7], ema=[0.5, 0.6, 0.7])
    write_run(tmp_path / "short", "--epochs", 3, raw=[0.1, 0.2], ema=[0.3, 0.4])
    (group,) = groups_of(tmp_path / "long", tmp_path / "short")
    assert group.epochs == [1, 2]
    assert group.curves["raw"].tolist() == [[0.1, 0.2], [0.5, 0.6]]
    final = {label: values.tolist() for label, values in group.final.items()}
    assert final == {"raw": [0.2, 0.6], "ema/0.998/raw": [0.4, 0.6]}
    np.testing.assert_allclose(group.gain, [[0.2, 0.2], [0, 0]])
    (note,) = group.notes
    assert str(tmp_path / "short") in note


def test_notes_name_different_origins(tmp_path):
    write_run(tmp_path / "a")
    assert groups_of(tmp_path / "a")[0].notes == []
    write_run(tmp_path / "b", "--seed", 1, git_commit="bad", device="GPU")
    notes = " ".join(groups_of(tmp_path / "a", tmp_path / "b")[0].notes)
    assert "commits" in notes and "devices" in notes and "versions" not in notes


def test_same_seed_twice_is_refused(tmp_path):
    write_run(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UserError, match="seed 0"):
        groups_of(tmp_path / "a", tmp_path / "b")


def test_no_common_epoch_is_refused(tmp_path):
    write_run(tmp_path / "a", raw=[0.5], ema=[0.5], epochs=[2])
    write_run(tmp_path / "b", "--seed", 1, raw=[0.5], ema=[0.5], epochs=[3])
    with pytest.raises(UserError, match="no epoch"):
        groups_of(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("policy", "baseline"), [("recomputed", "raw/recomputed"), ("averaged", "raw"), ("raw", "raw")]
)
def test_primary_average_and_its_baseline(tmp_path, policy, baseline):
    labels = ["raw", "raw/recomputed", f"ema/0.9/{policy}", "ema/0.8/raw"]
    curves = {label: [0.3 + 0.1 * epoch + 0.01 * index for epoch in range(3)] for index, label in enumerate(labels)}
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=curves))
    assert (group.ema_label, group.baseline) == (f"ema/0.9/{policy}", baseline)
    np.testing.assert_array_equal(group.gain, [np.subtract(curves[group.ema_label], curves[baseline])])
    assert group.labels == list(dict.fromkeys(["raw", baseline, group.ema_label]))


def test_validation_chooses_over_all_seeds(tmp_path):
    """At the last epoch; on the test images the other average is better."""
    labels = ["raw", "ema/0.9/raw", "ema/0.99/raw"]
    for seed, accuracies in enumerate([(0.9, 0.7, 0.6), (0.9, 0.3, 0.6)]):
        validation = {label: [1 - value, value] for label, value in zip(labels, accuracies, strict=True)}
        test = constant(dict(zip(labels, [0.5, 0.9, 0.7], strict=True)), 2)
        curves = {"classifiers": test, "validation": validation}
        write_run(tmp_path / str(seed), "--seed", seed, "--validation_size", 9, **curves)
    assert groups_of(tmp_path / "0")[0].ema_label == "ema/0.9/raw"
    (group,) = groups_of(tmp_path)
    assert group.ema_label == "ema/0.99/raw"
    np.testing.assert_allclose(group.gain[:, -1], 0.2)


def test_predictions_match_epoch_and_images(tmp_path):
    labels = np.array([3, 1, 4])
    for seed in range(4):
        curves = constant({"raw": 0.5, "ema/0.998/raw": 0.5}, 3 if seed == 2 else 2)
        path = write_run(tmp_path / f"seed-{seed}", "--epochs", 3, "--seed", seed, classifiers=curves)
        write_predictions(path, labels[::-1] if seed == 3 else labels, {"raw": labels, "ema/0.998/raw": labels})
    (tmp_path / "seed-1" / "predictions.npz").write_bytes(b"torn")
    predictions, problems = groups.predictions_of(groups_of(tmp_path)[0])
    assert [usable.run.flags.seed for usable in predictions] == [0]
    for seed, phrase in zip((1, 2, 3), problems, strict=True):
        assert f"seed-{seed}" in phrase
