"""Checkpoints: what is saved, restored, kept and skipped."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.damage import delete, flip_bit, limited_file_size, truncate
from support.files import contents

from training import checkpoints
from training.cli import UserError

FILES = ("model.data-00000-of-00001", "model.index", "state.json")


class Model:
    """Two variables, whose values tell at which step they were saved."""

    def __init__(self, session, path):
        self.session, self.path = session, path
        self.weights = tf.get_variable("weights", [100, 10])
        self.step = tf.get_variable("global_step", [], tf.int64, initializer=tf.zeros_initializer())
        self.saver = tf.train.Saver(tf.global_variables(), max_to_keep=None)

    def save(self, step, rows=()):
        """Saves a checkpoint; returns its directory."""
        self.weights.load(np.full([100, 10], step / 7), self.session)
        self.step.load(step, self.session)
        state = {"step": step, "seconds": step / 3, "rows": list(rows)}
        checkpoints.save(self.path, self.saver, self.session, state)
        return self.path / "checkpoints" / f"step-{step:09d}"

    def restore(self):
        """Restores and reads the newest checkpoint, checks the values and returns (step, rows)."""
        self.session.run(tf.global_variables_initializer())
        state = checkpoints.restore(self.path, self.saver, self.session)
        weights, step = self.session.run([self.weights, self.step])
        assert (state["step"], state["seconds"]) == (step, step / 3)
        np.testing.assert_array_equal(weights, np.full([100, 10], step / 7, np.float32))
        values, read_state = checkpoints.read(self.path)
        assert read_state == state
        np.testing.assert_array_equal(values["weights"], weights)
        assert values["global_step"] == step
        return step, state["rows"]

    def steps(self):
        """Returns the steps of all checkpoints, and checks that there are no other files."""
        directories = checkpoints.list_checkpoints(self.path)
        assert sorted((self.path / "checkpoints").iterdir()) == directories
        return [int(directory.name.removeprefix("step-")) for directory in directories]


@pytest.fixture(params=["run *"])
def model(session, tmp_path, request):
    path = tmp_path / request.param  # TensorFlow and shells take it for a pattern
    path.mkdir()
    return Model(session, path)


@pytest.mark.parametrize("model", ["run", "run [1]"], indirect=True)
def test_round_trip_is_exact(model):
    model.save(12, ["row"])
    assert model.restore() == (12, ["row"])


def test_newest_three_are_kept(model):
    assert checkpoints.last_step(model.path) == 0
    for step in (5, 90, 100, 1000, 20000):
        model.save(step)
    assert model.steps() == [100, 1000, 20000]
    assert checkpoints.last_step(model.path) == 20000
    assert model.restore() == (20000, [])


def test_same_step_is_replaced(model):
    """A signal during the evaluation saves the step without its row."""
    model.save(5)
    model.save(5, ["row"])
    assert model.steps() == [5]
    assert model.restore() == (5, ["row"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, delete, flip_bit])
def test_corrupt_checkpoint_is_skipped_then_replaced(model, caplog, damage, name):
    model.save(10)
    file = model.save(20) / name
    if damage is flip_bit and name != FILES[0]:  # elsewhere a flipped bit may be harmless
        file.write_bytes(file.read_bytes().replace(b"20", b"21").replace(b"weights", b"weighty"))
    else:
        damage(file)
    assert model.restore()[0] == 10
    assert "step-000000020" in caplog.text
    model.save(20)
    assert model.restore()[0] == 20


def test_corrupt_later_checkpoints_are_deleted(model):
    model.save(10)
    for step in (20, 30):
        truncate(model.save(step) / "model.index")
    assert model.restore()[0] == 10
    model.save(15)
    assert model.steps() == [10, 15]


def test_unusable_checkpoints_are_refused(model):
    with pytest.raises(UserError, match="--resume --run_dir"):  # the run is not that far
        checkpoints.read(model.path)
    assert checkpoints.restore(model.path, model.saver, model.session) == {}
    (model.path / "metrics.jsonl").write_text("{}\n")  # it had checkpoints
    for function in (lambda: checkpoints.read(model.path), model.restore):
        with pytest.raises(UserError, match="checkpoints"):
            function()
    checkpoint = model.save(10)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("other", [3])
        with pytest.raises(UserError, match=r"config\.json"):
            checkpoints.restore(model.path, tf.train.Saver(), session)
    truncate(checkpoint / "model.index")
    with pytest.raises(UserError, match="checkpoints"):
        model.restore()


@pytest.mark.parametrize("rows", [[], ["row" * 10_000]], ids=["weights", "state"])
def test_failed_save_changes_nothing(model, rows):
    model.save(10)
    before = contents(model.path)
    with limited_file_size(20_000 if rows else 1000), pytest.raises(OSError, match="File too large") as caught:
        model.save(20, rows)
    assert caught.value.filename.endswith("step-000000020")
    assert contents(model.path) == before
