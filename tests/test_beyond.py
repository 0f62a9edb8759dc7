"""Loss, calibration and churn over seeds, from predictions: by hand, and which runs count."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from support.finished_runs import LABELS, groups_of, level, write_predictions, write_run

from analysis import beyond, predictions, tables

CLASSIFIERS = level({"raw": 0.5, "raw/recomputed": 0.6, "ema/0.9/recomputed": 0.7, "ema/0.9/raw": 0.65})
BOTH = ("raw/recomputed", "ema/0.9/recomputed")


def measured(*paths):
    (group,) = groups_of(*paths)
    return group, beyond.measure(group, *predictions.read_all(group))


def seed_of(path, seed, labels, logits, **arrays):
    """A run whose predictions.npz holds logits [2, N, 10] of baseline and EMA, and others that are not to be read."""
    run_dir = write_run(path / f"seed-{seed}", "--seed", seed, classifiers=CLASSIFIERS)
    wrong = np.eye(10)[(labels + 1) % 10]
    arrays = {"labels": labels, "raw": wrong, "ema/0.9/raw": wrong, **dict(zip(BOTH, logits, strict=True)), **arrays}
    np.savez(run_dir / "predictions.npz", **arrays)


@pytest.fixture
def four(tmp_path, random):
    """(directory, labels [N], logits [4, 2, N, 10]) of four seeds, baseline and EMA; the EMA's are better."""
    labels = random.integers(0, 10, 200)
    logits = random.normal(size=(4, 2, 200, 10))
    logits[:, :, np.arange(200), labels] += np.array([1.0, 2.0])[:, None]
    for seed in range(4):
        seed_of(tmp_path / "seeds", seed, labels, logits[seed])
    return tmp_path / "seeds", labels, logits


def probabilities(logits):
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


def test_accuracy_and_loss_are_means_over_seeds_and_their_difference_is_paired(four):
    path, labels, logits = four
    group, found = measured(path)
    right = (logits.argmax(-1) == labels).mean(-1)
    loss = -np.log(probabilities(logits)[:, :, np.arange(200), labels]).mean(-1)
    for name, values in (("accuracy", right), ("loss", loss)):
        measure = found.measures[name]
        assert (measure.baseline, measure.ema) == pytest.approx(tuple(values.mean(0)))
        low, high = scipy.stats.ttest_rel(values[:, 1], values[:, 0]).confidence_interval(0.95)
        assert (measure.difference - measure.half, measure.difference + measure.half) == pytest.approx((low, high))
    assert [run.flags.seed for run in found.runs] == [0, 1, 2, 3] and found.notes == []
    assert group.against == "raw/recomputed"


def test_calibration_error_is_taken_over_15_bins(four):
    path, labels, logits = four
    _, found = measured(path)
    errors = np.zeros((4, 2))
    for seed, which in itertools.product(range(4), range(2)):
        chances = probabilities(logits[seed, which])
        confidence, right = chances.max(1), chances.argmax(1) == labels
        for low in range(15):
            inside = (confidence >= low / 15) & (confidence < (low + 1) / 15)
            if inside.any():
                errors[seed, which] += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    measure = found.measures["calibration"]
    assert (measure.baseline, measure.ema) == pytest.approx(tuple(errors.mean(0)))
    assert measure.difference == pytest.approx((errors[:, 1] - errors[:, 0]).mean())


def test_churn_is_between_seeds_of_one_classifier_over_all_pairs(four):
    path, _, logits = four
    _, found = measured(path)
    answers = logits.argmax(-1)
    shares = np.zeros((2, 4, 4))
    for which, one, other in itertools.product(range(2), range(4), range(4)):
        shares[which, one, other] = sum(answers[one, which] != answers[other, which]) / 200
    means = shares.sum((1, 2)) / (4 * 3)
    measure = found.measures["churn"]
    assert (measure.baseline, measure.ema) == pytest.approx(tuple(means))
    assert measure.difference == pytest.approx(means[1] - means[0])
    # The jackknife by its textbook form: (S - 1) / S of the squared deviations of the leave-one-out values.
    gap = shares[1] - shares[0]
    without = [np.delete(np.delete(gap, seed, 0), seed, 1).sum() / (3 * 2) for seed in range(4)]
    error = math.sqrt(3 / 4 * sum((value - np.mean(without)) ** 2 for value in without))
    assert measure.half == pytest.approx(3.182446305 * error, rel=1e-6)  # t at 3 degrees of freedom


def test_two_seeds_have_churn_without_an_interval_and_one_has_none(four):
    path, _, _ = four
    _, found = measured(path / "seed-0", path / "seed-1")
    assert found.measures["churn"].half is None and found.measures["loss"].half > 0
    _, found = measured(path / "seed-0")
    assert list(found.measures) == ["accuracy", "loss", "calibration"]
    assert all(measure.half is None for measure in found.measures.values())


def test_the_table_shows_them_with_their_names_and_units(four):
    path, _, _ = four
    group, found = measured(path)
    table = tables.beyond_table(group, found)
    assert table.header == ["", "raw/recomputed", "ema/0.9/recomputed", "difference", "95% interval"]
    assert "mean of 4 seeds (0, 1, 2, 3)" in table.caption and "churn: jackknife over seeds" in table.caption
    assert [row[0] for row in table.rows] == [
        "accuracy, %", "test loss, nats", "calibration error, %", "churn between seeds, %",
    ]  # fmt: skip
    loss = found.measures["loss"]
    assert table.rows[1][1:4] == [f"{loss.baseline:.4f}", f"{loss.ema:.4f}", f"{loss.difference:+.4f}"]
    low, high = loss.difference - loss.half, loss.difference + loss.half
    assert table.rows[1][4] == f"[{low:+.4f}, {high:+.4f}]"
    churn = found.measures["churn"]
    assert table.rows[3][1:4] == [
        f"{100 * churn.baseline:.2f}", f"{100 * churn.ema:.2f}", f"{100 * churn.difference:+.2f}"
    ]  # fmt: skip


def test_a_run_that_cannot_be_compared_is_left_out_and_named(four, random):
    path, labels, logits = four
    (path / "seed-1" / "predictions.npz").unlink()
    (path / "seed-2" / "predictions.npz").write_bytes(b"torn")
    seed_of(path, 4, labels[::-1], logits[0])
    seed_of(path, 5, labels, logits[0])
    (path / "seed-5" / "summary.json").write_text('{"epoch": 2}')
    group, found = measured(path)
    assert [run.flags.seed for run in found.runs] == [0, 3]
    (note,) = found.notes
    assert f"{path / 'seed-1'} holds no predictions.npz" in note
    assert f"{path / 'seed-2' / 'predictions.npz'} is damaged" in note
    assert f"the predictions of {path / 'seed-4'} are of other test images than those of {path / 'seed-0'}" in note
    assert f"the predictions of {path / 'seed-5'} are of epoch 2, not 3" in note
    assert "mean of 2 seeds (0, 3)" in tables.beyond_table(group, found).caption


def test_predictions_without_the_baseline_of_the_tables_do_not_count(four):
    path, labels, logits = four
    np.savez(path / "seed-3" / "predictions.npz", labels=labels, raw=logits[3, 0], **{BOTH[1]: logits[3, 1]})
    _, found = measured(path)
    assert len(found.runs) == 3
    assert "of ema/0.9/recomputed and raw, not of ema/0.9/recomputed and raw/recomputed" in found.notes[0]


def test_without_predictions_there_is_no_table(tmp_path):
    write_run(tmp_path / "run")
    group, found = measured(tmp_path / "run")
    assert (found.measures, found.notes) == ({}, [])  # the gallery's sentence says why
    assert tables.beyond_table(group, found) is None


def test_predictions_of_another_epoch_only_are_told(tmp_path):
    write_predictions(write_run(tmp_path / "long"), labels=LABELS)
    write_run(tmp_path / "short", "--seed", 1, raw=[0.1, 0.2], ema=[0.3, 0.4])
    group, found = measured(tmp_path / "long", tmp_path / "short")
    assert tables.beyond_table(group, found) is None
    assert "are of epoch 3, not 2" in found.notes[0] and "short holds no predictions.npz" in found.notes[0]
