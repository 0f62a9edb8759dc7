"""The images that EMA fixed and broke against its baseline, and the predictions that they are chosen by."""

import numpy as np
import pytest
from support.files import read_rows
from support.finished_runs import (
    EMA_ANSWERS,
    LABELS,
    RAW_ANSWERS,
    groups_of,
    level,
    stand_in_images,
    write_predictions,
    write_rows,
    write_run,
)

import data
from analysis import gallery as report_gallery
from analysis import predictions


@pytest.fixture
def images_of_labels(monkeypatch, random):
    return stand_in_images(monkeypatch, random)


def gallery_of(*paths, data_dir=None):
    (group,) = groups_of(*paths)
    return report_gallery.gallery(group, *predictions.read_all(group), data_dir)


def test_the_gallery_shows_what_ema_fixed_and_broke(tmp_path, images_of_labels):
    gallery = gallery_of(write_predictions(write_run(tmp_path / "run")))
    (fixed,), (broken,) = gallery.fixed, gallery.broken
    assert (fixed.truth, fixed.baseline, fixed.ema) == ("automobile", "bird", "automobile")
    assert (broken.truth, broken.baseline, broken.ema) == ("deer", "deer", "truck")
    np.testing.assert_array_equal(fixed.image, images_of_labels[1])
    np.testing.assert_array_equal(broken.image, images_of_labels[2])
    assert "after epoch 3 the classifier ema/0.998/raw" in gallery.sentence
    assert "right on 1 test images that raw gets wrong, and wrong on 1 that raw" in gallery.sentence


RECOMPUTED = level({"raw": 0.5, "raw/recomputed": 0.6, "ema/0.998/recomputed": 0.7})


def test_an_average_with_recomputed_statistics_is_shown_beside_such_raw_weights(tmp_path, images_of_labels):
    run_dir = write_run(tmp_path / "run", classifiers=RECOMPUTED)
    more = {"raw/recomputed": RAW_ANSWERS, "ema/0.998/recomputed": EMA_ANSWERS}
    gallery = gallery_of(write_predictions(run_dir, raw=LABELS, ema=LABELS, **more))
    assert gallery.against == "raw/recomputed"
    assert "right on 1 test images that raw/recomputed gets wrong" in gallery.sentence
    assert [tile.baseline for tile in gallery.fixed] == ["bird"]


def test_without_the_fair_baseline_they_are_shown_beside_raw(tmp_path, images_of_labels):
    run_dir = write_run(tmp_path / "run", classifiers=RECOMPUTED)
    gallery = gallery_of(write_predictions(run_dir, **{"ema/0.998/recomputed": EMA_ANSWERS}))
    assert gallery.against == "raw" and "that raw gets wrong" in gallery.sentence


def test_a_run_that_does_not_name_its_average_has_a_gallery(tmp_path, images_of_labels):
    run_dir = write_predictions(write_run(tmp_path / "run"))
    write_rows(run_dir, [{key: row[key] for key in row if key != "classifiers"} for row in read_rows(run_dir)])
    assert "the classifier ema/0.998/raw is right on 1" in gallery_of(run_dir).sentence


def test_the_gallery_says_which_epoch_it_is_of_where_the_tables_are_of_another(tmp_path, images_of_labels):
    write_predictions(write_run(tmp_path / "long"))
    write_run(tmp_path / "short", "--seed", 1, raw=[0.1, 0.2], ema=[0.3, 0.4])
    sentence = gallery_of(tmp_path / "long", tmp_path / "short").sentence
    assert "after epoch 3 (the tables are of epoch 2) the classifier" in sentence


@pytest.mark.parametrize(("summary", "epoch"), [('{"epoch": 2}', 2), ("{torn", 3), ("[]", 3), ('{"epoch": "2"}', 3)])
def test_predictions_are_of_the_epoch_at_which_training_ended_last(tmp_path, summary, epoch):
    """A finished run that was given more epochs has newer rows before it has newer predictions."""
    run_dir = write_predictions(write_run(tmp_path / "run"))
    (run_dir / "summary.json").write_text(summary)
    (group,) = groups_of(run_dir)
    assert predictions.read_predictions(group.runs[0]).epoch == epoch


def test_a_second_run_s_predictions_serve_where_the_first_has_none(tmp_path, images_of_labels):
    write_run(tmp_path / "a")
    write_predictions(write_run(tmp_path / "b", "--seed", 1))
    assert f"In {tmp_path / 'b'} after" in gallery_of(tmp_path / "a", tmp_path / "b").sentence


def test_the_gallery_reads_cifar10_where_data_dir_says(tmp_path, tiny_cifar10):
    labels = tiny_cifar10.labels["test"]
    run_dir = write_run(tmp_path / "run", "--data_dir", "elsewhere")
    write_predictions(run_dir, labels, (labels + 1) % 10, labels)
    gallery = gallery_of(run_dir, data_dir=str(tiny_cifar10.directory))
    assert [tile.truth for tile in gallery.fixed] == [data.CLASSES[label] for label in labels]
    np.testing.assert_array_equal([tile.image for tile in gallery.fixed], tiny_cifar10.images["test"])


def test_a_synthetic_run_needs_no_directory(tmp_path):
    labels = data.load("synthetic", test_size=30).test.labels
    run_dir = write_run(tmp_path / "run", "--dataset", "synthetic", "--test_size", 30)
    gallery = gallery_of(write_predictions(run_dir, labels, (labels + 1) % 10, labels))
    assert len(gallery.fixed) == report_gallery.TILES and not gallery.broken
    assert gallery.fixed[0].truth == f"class {labels[0]}"


def test_without_predictions_or_data_one_sentence_says_so(tmp_path, monkeypatch):
    run_dir = write_run(tmp_path / "run")
    assert gallery_of(run_dir).sentence == f"No gallery of images: {run_dir} holds no predictions.npz."
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("would download the data set"))
    gallery = gallery_of(write_predictions(run_dir), data_dir=str(tmp_path))
    assert "CIFAR-10 is not in" in gallery.sentence and not gallery.fixed


ZEROS = np.zeros((5, 10))


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({}, "lacks an array"),
        ({"labels": LABELS, "raw": np.zeros((5, 10), np.float32)}, "lacks an array"),
        ({"labels": LABELS, "raw": np.zeros((5, 9)), "ema/0.998/raw": np.zeros((5, 9))}, "damaged"),
        ({"labels": LABELS / 2, "raw": ZEROS, "ema/0.998/raw": ZEROS}, "labels"),
        ({"labels": LABELS + 5, "raw": ZEROS, "ema/0.998/raw": ZEROS}, "not all classes from 0 to 9"),
        ({"labels": LABELS[:0], "raw": ZEROS[:0], "ema/0.998/raw": ZEROS[:0]}, "labels"),
        ({"labels": LABELS, "raw": np.full((5, 10), np.nan), "ema/0.998/raw": ZEROS}, "not finite"),
        ({"labels": LABELS, "raw": ZEROS.astype(int), "ema/0.998/raw": ZEROS}, "damaged"),
        ({"labels": np.array([{}, {}]), "raw": np.zeros((2, 10)), "ema/0.998/raw": np.zeros((2, 10))}, "damaged"),
        ({"labels": LABELS[:4], "raw": np.zeros((4, 10)), "ema/0.998/raw": np.zeros((4, 10))}, "other test images"),
    ],
)
def test_predictions_that_cannot_be_used_are_named(tmp_path, images_of_labels, arrays, what):
    run_dir = write_run(tmp_path / "run")
    np.savez(run_dir / "predictions.npz", **arrays)
    gallery = gallery_of(run_dir)
    assert what in gallery.sentence and not gallery.fixed and not gallery.broken


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
def test_a_torn_predictions_file_is_named(tmp_path, images_of_labels, content):
    run_dir = write_run(tmp_path / "run")
    (run_dir / "predictions.npz").write_bytes(content)
    assert "predictions.npz is damaged" in gallery_of(run_dir).sentence
