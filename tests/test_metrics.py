"""metrics.jsonl and the TensorBoard events: what other programs read during a run."""

import pytest
from support.files import read_rows, scalars
from tensorboard.backend.event_processing import event_multiplexer

from training.metrics import Records


def row(step, raw=0.25, ema=0.5):
    classifiers = {"raw": raw, "ema/0.9/raw": ema}
    accuracies = {"raw_accuracy": raw, "ema_accuracy": ema, "classifiers": classifiers}
    return {"epoch": step // 10, "step": step, "train_loss": 2.0, "train_accuracy": 0.125, **accuracies}


def test_records_of_a_new_run_are_empty(tmp_path):
    Records(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_appended_rows_are_read_back(tmp_path):
    records = Records(tmp_path)
    rows = [row(10, 1 / 3, 2 / 3), row(20)]
    for each in rows:
        records.append(each)
        assert read_rows(tmp_path)[-1] == each  # on the disk at once
    assert read_rows(tmp_path) == records.rows == rows


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content + b'{"epoch": 3',
        lambda content: content[:-1],
        lambda content: content.replace(b"epoch", b"\xff\xfe"),
        lambda content: b"",
    ],
    ids=["torn", "no newline", "rotten", "empty"],
)
def test_continued_records_are_those_of_the_checkpoint_whatever_the_file_holds(tmp_path, damage):
    first = Records(tmp_path)
    for step in (10, 20, 30):
        first.append(row(step))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(damage(file.read_bytes()))
    continued = Records(tmp_path, [row(10), row(20)])
    assert read_rows(tmp_path) == [row(10), row(20)]
    continued.append(row(30, ema=0.75))
    assert read_rows(tmp_path) == [row(10), row(20), row(30, ema=0.75)]


def test_tensorboard_has_every_classifier_under_one_tag_and_the_training_apart(tmp_path):
    records = Records(tmp_path)
    records.append(row(10, raw=0.25, ema=0.5))
    records.append(row(20, raw=0.375, ema=0.625))
    shown = scalars(tmp_path)
    assert {curve: shown[curve] for curve in ("raw", "0.9")} == {
        "raw": {"test_accuracy": [(10, 0.25), (20, 0.375)]},
        "0.9": {"test_accuracy": [(10, 0.5), (20, 0.625)]},
    }
    (training,) = shown.keys() - {"raw", "0.9"}
    assert shown[training]["train_loss"] == [(10, 2.0), (20, 2.0)]
    assert shown[training]["train_accuracy"] == [(10, 0.125), (20, 0.125)]


def test_tensorboard_has_the_images_held_out_too(tmp_path):
    records = Records(tmp_path)
    records.append(row(10) | {"validation": {"raw": 0.75, "ema/0.9/raw": 0.875}})
    shown = scalars(tmp_path)
    assert shown["raw"] == {"test_accuracy": [(10, 0.25)], "validation_accuracy": [(10, 0.75)]}
    assert shown["0.9"] == {"test_accuracy": [(10, 0.5)], "validation_accuracy": [(10, 0.875)]}


def test_tensorboard_has_each_step_once_after_a_resumption(tmp_path):
    before = Records(tmp_path)
    for step in (10, 20, 30):
        before.append(row(step))
    (tmp_path / "tensorboard" / "notes.txt").touch()  # the person's own
    continued = Records(tmp_path, [row(10), row(20)])
    continued.append(row(30, raw=0.75))
    assert (tmp_path / "tensorboard" / "notes.txt").exists()
    assert scalars(tmp_path)["raw"]["test_accuracy"] == [(10, 0.25), (20, 0.25), (30, 0.75)]
    files = list(tmp_path.rglob("events.out.tfevents.*"))
    assert len(files) == len({file.parent for file in files}) == 3


def test_tensorboards_own_reader_finds_every_curve(tmp_path):
    records = Records(tmp_path)
    for step in (10, 20):
        records.append(row(step) | {"train_accuracy": 0.5, "images_per_second": 200.0})
    multiplexer = event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "tensorboard")).Reload()
    tags = {run: set(found["scalars"]) for run, found in multiplexer.Runs().items()}
    assert tags == {
        "raw": {"test_accuracy"},
        "0.9": {"test_accuracy"},
        "train": {"train_loss", "train_accuracy", "images_per_second"},
    }
    assert [(event.step, event.value) for event in multiplexer.Scalars("raw", "test_accuracy")] == [
        (step, row(step)["classifiers"]["raw"]) for step in (10, 20)
    ]
