"""The run directory: what is refused, what survives a crash, what other programs read."""

import json
import os
import struct

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import runs
from errors import UserError


def row(step, raw=0.25, ema=0.5):
    return {"epoch": step // 10, "step": step, "train_loss": 2.0, "raw_accuracy": raw, "ema_accuracy": ema}


@pytest.fixture
def path(tmp_path):
    """A run directory with a place for checkpoints."""
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


# ---------------------------------------------------------------------------------------------------------------
# Opening


def test_new_run_takes_a_missing_or_an_empty_directory(tmp_path):
    runs.check_directory(tmp_path, resume=False)
    runs.check_directory(tmp_path / "missing", resume=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "notes.txt", ".hidden"])
def test_new_run_refuses_a_directory_that_holds_anything(tmp_path, name):
    (tmp_path / name).write_text("kept")
    with pytest.raises(UserError, match="--resume") as caught:
        runs.check_directory(tmp_path, resume=False)
    assert caught.value.status == 1
    assert (tmp_path / name).read_text() == "kept"


def test_new_run_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="--run_dir"):
        runs.check_directory(tmp_path / "file", resume=False)


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_resume_refuses_a_directory_without_a_checkpoint(tmp_path, name):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="no checkpoint to resume"):
        runs.check_directory(tmp_path / name, resume=True)


def test_unwritable_directory_is_told(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"cannot be written .*choose another --run_dir"):
        runs.open_directory(tmp_path / "file" / "run")
    assert (tmp_path / "file").read_text() == "kept"


def test_log_goes_to_stdout_and_to_the_file_of_the_run(tmp_path, capsys):
    path = runs.open_directory(tmp_path / "deep" / "run")
    runs.log.info("a line")
    assert capsys.readouterr().out == "a line\n"
    assert (path / "train.log").read_text() == "a line\n"


def test_reopened_run_appends_to_its_log(tmp_path):
    for text in ("first", "second"):
        path = runs.open_directory(tmp_path)
        runs.log.info(text)
    assert (path / "train.log").read_text() == "first\nsecond\n"


# ---------------------------------------------------------------------------------------------------------------
# JSON


def test_write_json_replaces_the_whole_file(tmp_path):
    path = tmp_path / "value.json"
    for value in ({"long": list(range(100))}, {"short": 1}):
        runs.write_json(path, value)
        assert json.loads(path.read_text()) == value
    assert os.listdir(tmp_path) == ["value.json"]


def test_failed_write_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "value.json"
    runs.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        runs.write_json(path, {"new": 1, "bad": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_write_json_is_never_seen_half_written(tmp_path, monkeypatch):
    """What is under the final name at every flush to the disk is the old file."""
    path = tmp_path / "value.json"
    runs.write_json(path, {"old": 1})
    seen = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(json.loads(path.read_text())))
    runs.write_json(path, {"new": 1})
    assert seen
    assert all(value == {"old": 1} for value in seen)
    assert json.loads(path.read_text()) == {"new": 1}


# ---------------------------------------------------------------------------------------------------------------
# Metrics


def steps(rows):
    return [row["step"] for row in rows]


def test_metrics_of_a_run_without_any_are_empty(tmp_path):
    assert runs.read_metrics(tmp_path) == []


def test_appended_rows_are_read_back(tmp_path):
    metrics = runs.Metrics(tmp_path, last_step=0)
    rows = [row(10, 1 / 3, 2 / 3), row(20)]
    for each in rows:
        metrics.append(each)
        assert runs.read_metrics(tmp_path)[-1] == each  # on the disk at once
    assert runs.read_metrics(tmp_path) == metrics.rows == rows
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows


def test_continued_metrics_drop_the_rows_after_the_checkpoint(tmp_path):
    first = runs.Metrics(tmp_path, last_step=0)
    for step in (10, 20, 30):
        first.append(row(step))
    continued = runs.Metrics(tmp_path, last_step=20)
    assert steps(continued.rows) == [10, 20]
    continued.append(row(30, ema=0.75))
    assert steps(runs.read_metrics(tmp_path)) == [10, 20, 30]
    assert runs.read_metrics(tmp_path)[-1]["ema_accuracy"] == 0.75


@pytest.mark.parametrize("kept", [1, 10, -1], ids=["first byte", "part", "all but the newline"])
def test_continued_metrics_survive_a_torn_last_row(tmp_path, kept):
    metrics = runs.Metrics(tmp_path, last_step=0)
    metrics.append(row(10))
    whole = (tmp_path / "metrics.jsonl").read_text()
    torn = json.dumps(row(20)) + "\n"
    (tmp_path / "metrics.jsonl").write_text(whole + torn[:kept])
    continued = runs.Metrics(tmp_path, last_step=10)
    continued.append(row(20, ema=0.75))
    assert runs.read_metrics(tmp_path) == [row(10), row(20, ema=0.75)]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_tensorboard_has_raw_and_ema_under_one_tag(tmp_path):
    metrics = runs.Metrics(tmp_path, last_step=0)
    metrics.append(row(10, raw=0.25, ema=0.5))
    metrics.append(row(20, raw=0.375, ema=0.625))
    accuracies = {}
    for name in ("raw", "ema"):
        (events,) = (tmp_path / "tensorboard" / name).iterdir()
        accuracies[name] = [
            (event.step, value.simple_value)
            for event in tf.train.summary_iterator(str(events))
            for value in event.summary.value
            if value.tag == "test_accuracy"
        ]
    assert accuracies == {"raw": [(10, 0.25), (20, 0.375)], "ema": [(10, 0.5), (20, 0.625)]}


@pytest.mark.parametrize("rows", [[row(10)], [row(10), row(20, 0.5, 0.75), row(30)]], ids=["one", "several"])
def test_curves_are_a_readable_png(tmp_path, rows):
    runs.draw_curves(tmp_path, rows)
    content = (tmp_path / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 640
    assert height >= 400
    assert os.listdir(tmp_path) == ["curves.png"]


# ---------------------------------------------------------------------------------------------------------------
# Checkpoints


class Model:
    """Two variables, whose values tell at which step they were saved."""

    def __init__(self, session, path):
        self.session, self.path = session, path
        self.weights = tf.get_variable("weights", [100, 10])
        self.step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
        self.saver = tf.train.Saver(tf.global_variables(), max_to_keep=None)
        self.forget()

    def forget(self):
        self.session.run(tf.global_variables_initializer())

    def save(self, step):
        self.weights.load(np.full([100, 10], step / 7), self.session)
        self.step.load(step, self.session)
        runs.save_checkpoint(self.path, self.saver, self.session, {"step": step, "seconds": step / 3})

    def restored(self):
        """The step that a restore ends up at, after checking that state and variables agree about it."""
        self.forget()
        state = runs.restore_checkpoint(self.path, self.saver, self.session)
        weights, step = self.session.run([self.weights, self.step])
        assert state == {"step": step, "seconds": step / 3}
        np.testing.assert_array_equal(weights, np.full([100, 10], step / 7, np.float32))
        return step


@pytest.fixture
def model(session, path):
    return Model(session, path)


def names(path):
    return [checkpoint.name for checkpoint in runs.checkpoints(path)]


def test_checkpoint_restores_variables_and_state_exactly(model):
    model.save(12)
    assert model.restored() == 12


def test_newest_three_checkpoints_are_kept(model, path):
    for step in (5, 90, 100, 1000, 20000):
        model.save(step)
    assert names(path) == ["step-000000100", "step-000001000", "step-000020000"]
    assert model.restored() == 20000


def test_saving_the_same_step_again_is_harmless(model, path):
    model.save(5)
    model.save(5)
    assert names(path) == ["step-000000005"]
    assert model.restored() == 5


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def delete(file):
    file.unlink()


@pytest.mark.parametrize("name", ["model.data-00000-of-00001", "model.index", "state.json"])
@pytest.mark.parametrize("damage", [truncate, flip_bit, delete])
def test_damaged_newest_checkpoint_is_passed_over_with_a_warning(model, path, caplog, damage, name):
    model.save(10)
    model.save(20)
    damage(path / "checkpoints" / "step-000000020" / name)
    assert model.restored() == 10
    assert "step-000000020 is damaged" in caplog.text


def test_state_with_another_step_than_its_directory_is_not_trusted(model, path):
    """One flipped bit in state.json may leave valid JSON."""
    model.save(10)
    model.save(20)
    file = path / "checkpoints" / "step-000000020" / "state.json"
    file.write_text(file.read_text().replace('"step": 20', '"step": 60'))
    assert model.restored() == 10


def test_no_usable_checkpoint_is_told(model, path):
    model.save(10)
    truncate(path / "checkpoints" / "step-000000010" / "model.data-00000-of-00001")
    with pytest.raises(UserError, match=r"no usable checkpoint.*another --run_dir") as caught:
        model.restored()
    assert caught.value.status == 1


def test_checkpoint_cut_off_while_it_was_written_is_no_checkpoint(model, path, monkeypatch):
    model.save(10)
    monkeypatch.setattr(runs, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.save(20)
    assert names(path) == ["step-000000010"]
    assert model.restored() == 10
    monkeypatch.undo()
    model.save(20)  # what the first try left does not stand in the way
    assert model.restored() == 20


def test_passed_over_checkpoint_can_be_saved_anew(model, path):
    """The run goes on from the older checkpoint, comes by the damaged one's step again, and saves it whole."""
    model.save(10)
    model.save(20)
    flip_bit(path / "checkpoints" / "step-000000020" / "model.data-00000-of-00001")
    assert model.restored() == 10
    model.save(20)
    assert model.restored() == 20
