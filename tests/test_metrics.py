"""metrics.jsonl and the TensorBoard events, as other programs read them."""

import pytest
from support.damage import limited_file_size
from support.files import read_events, read_rows
from tensorboard.backend.event_processing import event_multiplexer

from training.metrics import MetricsWriter


def row(step, raw=0.25, ema=0.5):
    classifiers = {"raw": raw, "ema/0.9/raw": ema}
    accuracies = {"raw_accuracy": raw, "ema_accuracy": ema, "classifiers": classifiers}
    return {"epoch": step // 10, "step": step, "train_loss": 2.0, "train_accuracy": 0.125, **accuracies}


def test_rows_are_read_back(tmp_path):
    writer = MetricsWriter(tmp_path, [])
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""
    rows = [row(10, 1 / 3, 2 / 3), row(20)]
    for appended in rows:
        writer.append(appended)
        assert read_rows(tmp_path)[-1] == appended  # on the disk at once
    assert read_rows(tmp_path) == rows


@pytest.mark.parametrize("content", [b'{"epoch": 3', b"\xff\xfe\n", b""], ids=["truncated", "corrupt", "empty"])
def test_resumed_rows_replace_the_file(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    writer = MetricsWriter(tmp_path, [row(10), row(20)])
    assert read_rows(tmp_path) == [row(10), row(20)]
    writer.append(row(30))
    assert read_rows(tmp_path) == [row(10), row(20), row(30)]


def test_tensorboard_reads_every_curve(tmp_path):
    writer = MetricsWriter(tmp_path, [])
    for step in (10, 20):
        validation = {"raw": 0.75, "ema/0.9/raw": 0.875}
        writer.append(row(step, raw=step / 100) | {"images_per_second": 200.0, "validation": validation})
    multiplexer = event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "tensorboard")).Reload()
    tags = {run: set(found["scalars"]) for run, found in multiplexer.Runs().items()}
    accuracies = {"test_accuracy", "validation_accuracy"}
    training = {"train_loss", "train_accuracy", "images_per_second"}
    assert tags == {"raw": accuracies, "0.9": accuracies, "train": training}

    def curve(run, tag):
        return [(event.step, pytest.approx(event.value)) for event in multiplexer.Scalars(run, tag)]

    assert curve("raw", "test_accuracy") == [(10, 0.1), (20, 0.2)]
    assert curve("raw", "validation_accuracy") == [(10, 0.75), (20, 0.75)]
    assert curve("0.9", "test_accuracy") == [(10, 0.5), (20, 0.5)]
    assert curve("0.9", "validation_accuracy") == [(10, 0.875), (20, 0.875)]
    assert curve("train", "train_loss") == [(10, 2), (20, 2)]
    assert curve("train", "train_accuracy") == [(10, 0.125), (20, 0.125)]


def test_resumed_events_have_each_step_once(tmp_path):
    first = MetricsWriter(tmp_path, [])
    for step in (10, 20, 30):
        first.append(row(step))
    (tmp_path / "tensorboard" / "notes.txt").touch()
    resumed = MetricsWriter(tmp_path, [row(10), row(20)])
    resumed.append(row(30, raw=0.75))
    assert (tmp_path / "tensorboard" / "notes.txt").exists()
    assert read_events(tmp_path)["raw"]["test_accuracy"] == [(10, 0.25), (20, 0.25), (30, 0.75)]
    files = list(tmp_path.rglob("events.out.tfevents.*"))
    assert len(files) == len({file.parent for file in files}) == 3


def test_unwritable_row_names_the_file(tmp_path):
    writer = MetricsWriter(tmp_path, [])
    with limited_file_size(100), pytest.raises(OSError, match="File too large") as caught:
        writer.append(row(10))
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
