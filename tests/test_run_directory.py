"""The run directory: what is refused, what survives a crash, what other programs read."""

import json
import os
import struct
import subprocess

import numpy as np
import pytest
import runs
import tensorflow.compat.v1 as tf
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


@pytest.mark.parametrize(
    ("name", "remedy"), [("config.json", "--resume"), ("notes.txt", "--run_dir"), (".hidden", "--run_dir")]
)
def test_new_run_refuses_a_directory_that_holds_anything(tmp_path, name, remedy):
    (tmp_path / name).write_text("kept")
    with pytest.raises(UserError, match=remedy) as caught:
        runs.check_directory(tmp_path, resume=False)
    assert caught.value.status == 1
    assert (tmp_path / name).read_text() == "kept"


def test_new_run_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="--run_dir"):
        runs.check_directory(tmp_path / "file", resume=False)


@pytest.mark.parametrize("name", sorted(runs.UNBEGUN))
def test_new_run_takes_a_directory_in_which_a_start_was_cut_short(tmp_path, name):
    (tmp_path / name).write_text("{")
    runs.open_directory(tmp_path, {"flags": {}})
    assert json.loads((tmp_path / "config.json").read_text()) == {"flags": {}}


def test_resume_without_a_checkpoint_is_for_a_run_that_never_had_one(path):
    runs.check_directory(path, resume=True)
    (path / "metrics.jsonl").write_text(json.dumps(row(10)) + "\n")
    with pytest.raises(UserError, match=r"no checkpoint.*another --run_dir"):
        runs.check_directory(path, resume=True)


def test_unwritable_directory_is_told(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"cannot be written .*choose another --run_dir"):
        runs.open_directory(tmp_path / "file" / "run", {})
    assert (tmp_path / "file").read_text() == "kept"


def test_log_goes_to_stdout_and_to_the_file_of_the_run(tmp_path, capsys):
    path = runs.open_directory(tmp_path / "deep" / "run", {})
    runs.log.info("a line")
    assert capsys.readouterr().out == "a line\n"
    assert (path / "train.log").read_text() == "a line\n"


def test_reopened_run_appends_to_its_log(tmp_path):
    for text in ("first", "second"):
        path = runs.open_directory(tmp_path, {}, resume=text == "second")
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


def rows_of(path):
    """What another program reads: every line is whole."""
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_metrics_of_a_new_run_are_empty(tmp_path):
    runs.Metrics(tmp_path)
    assert rows_of(tmp_path) == []


def test_appended_rows_are_read_back(tmp_path):
    metrics = runs.Metrics(tmp_path)
    rows = [row(10, 1 / 3, 2 / 3), row(20)]
    for each in rows:
        metrics.append(each)
        assert rows_of(tmp_path)[-1] == each  # on the disk at once
    assert rows_of(tmp_path) == metrics.rows == rows


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
def test_continued_metrics_are_those_of_the_checkpoint_whatever_the_file_holds(tmp_path, damage):
    first = runs.Metrics(tmp_path)
    for step in (10, 20, 30):
        first.append(row(step))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(damage(file.read_bytes()))
    continued = runs.Metrics(tmp_path, [row(10), row(20)])
    assert rows_of(tmp_path) == [row(10), row(20)]
    continued.append(row(30, ema=0.75))
    assert rows_of(tmp_path) == [row(10), row(20), row(30, ema=0.75)]


def scalars(path, tag="test_accuracy"):
    """What TensorBoard shows: {"raw" and "ema": [(step, value)]}, after it dropped what a later session took back."""
    shown = {}
    for name in ("raw", "ema"):
        points = []
        for file in sorted((path / "tensorboard" / name).iterdir()):
            for event in tf.train.summary_iterator(str(file)):
                if event.session_log.status == tf.SessionLog.START:
                    points = [(step, value) for step, value in points if step < event.step]
                points += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
        shown[name] = points
    return shown


def test_tensorboard_has_raw_and_ema_under_one_tag(tmp_path):
    metrics = runs.Metrics(tmp_path)
    metrics.append(row(10, raw=0.25, ema=0.5))
    metrics.append(row(20, raw=0.375, ema=0.625))
    assert scalars(tmp_path) == {"raw": [(10, 0.25), (20, 0.375)], "ema": [(10, 0.5), (20, 0.625)]}
    assert scalars(tmp_path, "train_loss") == {"raw": [(10, 2.0), (20, 2.0)], "ema": []}


def test_tensorboard_has_each_step_once_after_a_resumption(tmp_path):
    before = runs.Metrics(tmp_path)
    for step in (10, 20, 30):
        before.append(row(step))
    continued = runs.Metrics(tmp_path, [row(10), row(20)])
    continued.append(row(30, raw=0.75))
    assert scalars(tmp_path)["raw"] == [(10, 0.25), (20, 0.25), (30, 0.75)]
    for events in (tmp_path / "tensorboard").iterdir():
        assert len(list(events.iterdir())) == 1


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


@pytest.mark.parametrize("name", ["model.data-00000-of-00001", "model.index", "state.json", "SHA256SUMS"])
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


def test_damaged_checkpoints_of_later_steps_go_once_there_is_a_newer_whole_one(model, path):
    for step in (10, 20, 30):
        model.save(step)
    for step in (20, 30):
        truncate(path / "checkpoints" / f"step-0000000{step}" / "model.index")
    assert model.restored() == 10
    model.save(15)
    assert names(path) == ["step-000000010", "step-000000015"]


def test_sums_are_what_coreutils_reads(model, path):
    model.save(10)
    checkpoint = path / "checkpoints" / "step-000000010"
    checked = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=checkpoint, capture_output=True)
    assert checked.returncode == 0
    assert {line.split()[-1] for line in (checkpoint / "SHA256SUMS").read_text().splitlines()} == {
        "model.data-00000-of-00001",
        "model.index",
        "state.json",
    }


def test_copy_of_a_checkpoint_under_another_name_is_none(model, path):
    model.save(10)
    (path / "checkpoints" / "step-000000010").rename(path / "checkpoints" / "step-000000020.bak")
    assert runs.checkpoints(path) == []
    model.save(15)
    assert model.restored() == 15
    assert (path / "checkpoints" / "step-000000020.bak").is_dir()
