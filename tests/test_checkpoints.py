"""Checkpoints: what is restored, what survives damage and an end at any moment, and what damage is found."""

import contextlib
import logging
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st
from support.commands import assert_one_sentence
from support.damage import damaged, damages, delete, flip_bit, fuzz, truncate
from support.files import contents, rows_without_timings
from training.errors import UserError

from training import checkpoints
from training.run_directory import RunDirectory

FILES = ("model.data-00000-of-00001", "model.index", "state.json", "SHA256SUMS")


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

    def save(self, step, rows=()):
        self.weights.load(np.full([100, 10], step / 7), self.session)
        self.step.load(step, self.session)
        state = {"step": step, "seconds": step / 3, "rows": list(rows)}
        checkpoints.save(self.path, self.saver, self.session, state)

    def restored(self, rows=()):
        """The step that a restore ends up at, after checking that state and variables agree about it."""
        self.forget()
        state = checkpoints.restore(self.path, self.saver, self.session)
        weights, step = self.session.run([self.weights, self.step])
        assert state == {"step": step, "seconds": step / 3, "rows": list(rows)}
        np.testing.assert_array_equal(weights, np.full([100, 10], step / 7, np.float32))
        values, same = checkpoints.read(self.path)
        assert same == state
        np.testing.assert_array_equal(values["weights"], weights)
        assert values["step"] == step
        return step


@pytest.fixture
def path(tmp_path):
    """A run directory; its name would be a pattern to a shell."""
    path = tmp_path / "run *"
    path.mkdir()
    return path


@pytest.fixture
def model(session, path):
    return Model(session, path)


def names(path):
    return [checkpoint.name for checkpoint in checkpoints.found(path)]


def test_checkpoint_restores_variables_and_state_exactly(model):
    model.save(12)
    assert model.restored() == 12


def test_brackets_in_the_name_of_a_directory_are_no_pattern(session, tmp_path):
    path = tmp_path / "run [1]"
    path.mkdir()
    model = Model(session, path)
    model.save(12)
    assert model.restored() == 12


def test_newest_three_checkpoints_are_kept(model, path):
    for step in (5, 90, 100, 1000, 20000):
        model.save(step)
    assert names(path) == ["step-000000100", "step-000001000", "step-000020000"]
    assert checkpoints.last_step(path) == 20000
    assert model.restored() == 20000


def test_last_step_of_a_run_without_a_checkpoint_is_0(path):
    assert checkpoints.last_step(path) == 0


def test_saving_the_same_again_leaves_it_alone(model, path):
    model.save(5, ["row"])
    before = contents(path)
    model.save(5, ["row"])
    assert contents(path) == before
    assert model.restored(["row"]) == 5


def test_rows_of_an_evaluation_after_it_was_saved_are_saved_too(model, path):
    """A signal during the evaluation had the step saved without its row."""
    model.save(5)
    model.save(5, ["row"])
    assert names(path) == ["step-000000005"]
    assert model.restored(["row"]) == 5
    assert [file.name for file in (path / "checkpoints").iterdir()] == names(path)


@pytest.mark.parametrize("name", FILES)
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


def test_no_checkpoint_at_all_names_the_command_that_makes_one(model, path):
    with pytest.raises(UserError, match=r"no checkpoint yet.*--resume --run_dir '"):
        model.restored()


def test_checkpoint_of_another_network_is_told(model, path):
    model.save(10)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("other", [3])
        with pytest.raises(UserError, match=r"written with other flags.*config\.json"):
            checkpoints.restore(path, tf.train.Saver(), session)


def test_checkpoint_cut_off_while_it_was_written_is_no_checkpoint(model, path, monkeypatch):
    model.save(10)
    monkeypatch.setattr(checkpoints, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        model.save(20)
    assert names(path) == ["step-000000010"]
    assert model.restored() == 10
    monkeypatch.undo()
    model.save(20)  # what the first try left does not stand in the way
    assert model.restored() == 20


def test_end_between_the_two_renames_of_a_replacement_loses_nothing(model, path, monkeypatch):
    """The old one is out of its place, the new one not yet in it."""
    model.save(10)
    rename = Path.rename

    def cut_off(self, target):
        if self.name == ".new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", cut_off)
    with pytest.raises(KeyboardInterrupt):
        model.save(10, ["row"])
    monkeypatch.undo()
    assert names(path) == []
    checkpoints.put_back(path)
    assert names(path) == [file.name for file in (path / "checkpoints").iterdir()] == ["step-000000010"]
    assert model.restored() == 10
    checkpoints.put_back(path)  # nothing to put back
    assert model.restored() == 10


def test_replaced_checkpoint_goes_when_its_successor_is_there(model, path):
    model.save(10, ["row"])
    shutil.copytree(path / "checkpoints" / "step-000000010", path / "checkpoints" / checkpoints.REPLACED)
    checkpoints.put_back(path)
    assert [file.name for file in (path / "checkpoints").iterdir()] == ["step-000000010"]
    assert model.restored(["row"]) == 10


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
    summed = {line.split()[-1] for line in (checkpoint / "SHA256SUMS").read_text().splitlines()}
    assert summed == set(FILES) - {"SHA256SUMS"}


def test_copy_of_a_checkpoint_under_another_name_is_none(model, path):
    model.save(10)
    (path / "checkpoints" / "step-000000010").rename(path / "checkpoints" / "step-000000020.bak")
    assert checkpoints.found(path) == []
    model.save(15)
    assert model.restored() == 15
    assert (path / "checkpoints" / "step-000000020.bak").is_dir()


# ---------------------------------------------------------------------------------------------------------------
# Any damage whatever


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """(Model, a run directory) with checkpoints of steps 10 and 20, of one row and of two; the model can restore."""
    path = tmp_path_factory.mktemp("two")
    with tf.Graph().as_default(), tf.Session() as session:
        model = Model(session, path)
        model.save(10, [1])
        model.save(20, [1, 2])
        yield model, path


@contextlib.contextmanager
def without_warnings():
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@fuzz(400)
@given(newest=st.booleans(), name=st.sampled_from(FILES), damage=damages)
def test_damaged_checkpoint_is_never_restored(two_checkpoints, newest, name, damage):
    model, path = two_checkpoints
    older, newer = checkpoints.found(path)
    file = (newer if newest else older) / name
    with without_warnings(), damaged(file, damage(file.read_bytes())) as changed:
        if newest and changed:
            assert model.restored([1]) == 10
        else:
            assert model.restored([1, 2]) == 20
        assert RunDirectory(path, resume=True).path == path


# ---------------------------------------------------------------------------------------------------------------
# What a person sees


def test_damaged_newest_checkpoint_is_told_and_the_run_ends_the_same(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    flip_bit(checkpoints.found(directory)[-1] / "model.data-00000-of-00001")
    result = forked("train.py", "--resume", "--run_dir", directory)
    assert result.returncode == 0, result.stderr
    assert "step-000000016 is damaged" in result.stdout
    assert "resumed at step 8" in result.stdout
    assert rows_without_timings(directory) == rows_without_timings(finished_run[0])


def test_no_whole_checkpoint_is_one_sentence_and_nothing_changes(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    for checkpoint in checkpoints.found(directory):
        flip_bit(checkpoint / "state.json")
    before = contents(directory)
    result = forked("train.py", "--resume", "--run_dir", directory)
    assert_one_sentence(result, 1, "no usable checkpoint", "another --run_dir")
    assert contents(directory) == before
    with pytest.raises(UserError, match="no usable checkpoint"):
        RunDirectory(directory, resume=True)
