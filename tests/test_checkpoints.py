"""Checkpoints: what is restored, what survives damage and an end at any moment, and what damage is found."""

import os
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st
from support.commands import RESUME, ROOT, assert_ended_well, assert_one_sentence
from support.damage import damaged, damages, delete, flip_bit, fuzz, limited_file_size, truncate
from support.files import contents, rows_without_timings

from training import checkpoints, flags
from training.cli import UserError
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
        """Saves a checkpoint; returns its directory."""
        self.weights.load(np.full([100, 10], step / 7), self.session)
        self.step.load(step, self.session)
        state = {"step": step, "seconds": step / 3, "rows": list(rows)}
        checkpoints.save(self.path, self.saver, self.session, state)
        return self.path / "checkpoints" / f"step-{step:09d}"

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

    def steps(self):
        """Those of all checkpoints, after checking that nothing else lies beside them."""
        found = checkpoints.list_checkpoints(self.path)
        assert sorted((self.path / "checkpoints").iterdir()) == found
        return [int(checkpoint.name.removeprefix("step-")) for checkpoint in found]


@pytest.fixture(params=["run *"])
def model(session, tmp_path, request):
    path = tmp_path / request.param  # a pattern to a shell, and to TensorFlow
    path.mkdir()
    return Model(session, path)


@pytest.mark.parametrize("model", ["run", "run *", "run [1]"], indirect=True)
def test_checkpoint_restores_variables_and_state_exactly(model):
    model.save(12)
    assert model.restored() == 12


def test_newest_three_checkpoints_are_kept(model):
    assert checkpoints.last_step(model.path) == 0
    for step in (5, 90, 100, 1000, 20000):
        model.save(step)
    assert model.steps() == [100, 1000, 20000]
    assert checkpoints.last_step(model.path) == 20000
    assert model.restored() == 20000


def test_only_the_rows_of_an_evaluation_replace_a_checkpoint_of_the_same_step(model):
    """A signal during the evaluation had the step saved without its row."""
    model.save(5)
    model.save(5, ["row"])
    before = contents(model.path)
    model.save(5, ["row"])
    assert contents(model.path) == before
    assert model.restored(["row"]) == 5
    assert model.steps() == [5]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, flip_bit, delete])
def test_damaged_newest_checkpoint_is_passed_over_with_a_warning_and_saved_anew(model, caplog, damage, name):
    """The run goes on from the older one, comes by the damaged one's step again, and saves it whole."""
    model.save(10)
    damage(model.save(20) / name)
    assert model.restored() == 10
    assert "step-000000020 is damaged" in caplog.text
    model.save(20)
    assert model.restored() == 20


def test_what_cannot_be_restored_is_one_sentence_with_a_remedy(model):
    with pytest.raises(UserError, match=r"no checkpoint yet.*--resume --run_dir '"):
        model.restored()
    (model.path / "metrics.jsonl").write_text("{}\n")  # it had checkpoints, and they were deleted
    with pytest.raises(UserError, match=r"evaluations, but no checkpoint: restore .*another --run_dir"):
        model.restored()
    checkpoint = model.save(10)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("other", [3])
        with pytest.raises(UserError, match=r"config\.json"):
            checkpoints.restore(model.path, tf.train.Saver(), session)
    truncate(checkpoint / "model.index")
    with pytest.raises(UserError, match=r"no usable checkpoint.*another --run_dir") as caught:
        model.restored()
    assert caught.value.status == 1


@pytest.mark.parametrize("missing", FILES[:3])
def test_checkpoint_cut_off_while_it_was_written_is_no_checkpoint(model, missing):
    checkpoint = model.save(10)
    shutil.copytree(checkpoint, checkpoint.with_name(".new"))
    (checkpoint.with_name(".new") / missing).unlink()
    assert checkpoints.list_checkpoints(model.path) == [checkpoint]
    assert model.restored() == 10
    model.save(20)  # what the first try left does not stand in the way
    assert model.restored() == 20
    assert model.steps() == [10, 20]


def test_run_that_is_taken_away_during_a_save_is_not_made_again(model):
    class Saver(tf.train.Saver):
        def save(self, *args, **keywords):
            model.path.rename(model.path.with_name("away"))
            return super().save(*args, **keywords)

    model.saver = Saver()
    with pytest.raises(FileNotFoundError):
        model.save(10)
    assert not model.path.exists()


@pytest.mark.parametrize("file_size", [100, 10_000], ids=["variables", "state"])
def test_checkpoint_that_cannot_be_written_names_itself_and_leaves_the_others_alone(model, file_size):
    model.save(10)
    before = contents(model.path)
    with limited_file_size(file_size), pytest.raises(OSError, match="File too large") as caught:
        model.save(20, ["row" * 10_000])
    assert caught.value.filename.endswith("step-000000020")
    assert contents(model.path) == before


def test_end_between_the_two_renames_of_a_replacement_loses_nothing(model):
    checkpoint = model.save(10, ["row"])
    replaced = checkpoint.with_name(checkpoints.REPLACED)
    checkpoint.rename(replaced)  # its successor is not in its place yet
    checkpoints.put_back(model.path)
    assert model.steps() == [10]
    shutil.copytree(checkpoint, replaced)  # it is there, the old one not deleted yet
    checkpoints.put_back(model.path)
    checkpoints.put_back(model.path)  # nothing to put back
    assert model.steps() == [10]
    shutil.copytree(checkpoint, replaced)
    (checkpoint / "state.json").unlink()  # the old one was copied, and is half deleted
    checkpoints.put_back(model.path)
    assert model.restored(["row"]) == 10


REPLACE = """
import json, pathlib, sys
from training import checkpoints
class Saver:
    def save(self, session, name, **options):
        pathlib.Path("model.index").write_text("later")
path = pathlib.Path(sys.argv[1])
checkpoints.save(path, Saver(), None, {"step": 5, "rows": ["row"]})
assert json.loads((checkpoints.newest_whole(path) / "state.json").read_text())["rows"] == ["row"]
"""


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs unshare, and to be root")
def test_a_checkpoint_in_the_lower_layer_of_an_overlay_is_replaced(model, tmp_path):
    """As in a container of an image that holds a run: what is there cannot be renamed."""
    model.save(5)
    top = tmp_path / "top"
    top.mkdir()
    script = f"""
        mount -t tmpfs none {top} && mkdir {top}/upper {top}/work {top}/all &&
        mount -t overlay overlay -o lowerdir=.,upperdir={top}/upper,workdir={top}/work {top}/all || exit 77
        PYTHONPATH={ROOT} {sys.executable} -c {shlex.quote(REPLACE)} {top}/all
    """
    result = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], cwd=model.path, capture_output=True, text=True
    )
    if result.returncode == 77:
        pytest.skip(f"overlays cannot be mounted: {result.stderr}")
    assert result.returncode == 0, result.stderr


def test_damaged_checkpoints_of_later_steps_go_once_there_is_a_newer_whole_one(model):
    model.save(10)
    for step in (20, 30):
        truncate(model.save(step) / "model.index")
    assert model.restored() == 10
    model.save(15)
    assert model.steps() == [10, 15]


def test_sums_are_what_coreutils_reads(model):
    checkpoint = model.save(10)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=checkpoint, check=True)
    summed = {line.split()[-1] for line in (checkpoint / "SHA256SUMS").read_text().splitlines()}
    assert summed == set(FILES) - {"SHA256SUMS"}


def test_what_a_share_leaves_in_a_checkpoint_is_no_damage(model):
    checkpoint = model.save(10)
    for name in ("Thumbs.db", "model.index~", "model.data-00000-of-00001.sync-conflict"):
        (checkpoint / name).write_bytes(b"x")
    (checkpoint / "@eaDir").mkdir()
    (checkpoint / ".nfs0001").write_bytes(b"NFS")
    assert model.restored() == 10


def test_blank_lines_in_the_sums_are_damage(model):
    model.save(10)
    with (model.save(20) / "SHA256SUMS").open("a") as file:
        file.write("\n  \n")
    assert model.restored() == 10


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_cannot_be_read_may_be_whole_and_is_not_passed_over(model, name):
    model.save(10)
    file = model.save(20) / name
    file.unlink()
    file.symlink_to(file)  # as without permission, ELOOP is no damage; the superuser has every permission
    before = sorted(path.name for path in model.path.rglob("*"))
    with pytest.raises(OSError, match=name):
        model.restored()
    assert sorted(path.name for path in model.path.rglob("*")) == before


def test_copy_of_a_checkpoint_under_another_name_is_none(model):
    copy = model.save(10).rename(model.path / "checkpoints" / "step-000000020.bak")
    assert checkpoints.list_checkpoints(model.path) == []
    model.save(15)
    assert model.restored() == 15
    assert copy.is_dir()


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """A Model with checkpoints of steps 10 and 20, of one row and of two, which can restore them."""
    with tf.Graph().as_default(), tf.Session() as session:
        model = Model(session, tmp_path_factory.mktemp("two"))
        model.save(10, [1])
        model.save(20, [1, 2])
        yield model


@fuzz(400)
@given(newest=st.booleans(), name=st.sampled_from(FILES), damage=damages)
def test_damaged_checkpoint_is_never_restored(two_checkpoints, newest, name, damage):
    model = two_checkpoints
    file = checkpoints.list_checkpoints(model.path)[newest] / name
    with damaged(file, damage(file.read_bytes())) as changed:
        if newest and changed:
            assert model.restored([1]) == 10
        else:
            assert model.restored([1, 2]) == 20
        RunDirectory(flags.build_parser().parse_args(["--resume", "--run_dir", str(model.path)]))


def test_a_run_goes_on_from_its_newest_whole_checkpoint_and_without_one_not_at_all(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    flip_bit(checkpoints.list_checkpoints(directory)[-1] / "model.data-00000-of-00001")
    result = forked(*RESUME, directory)
    assert_ended_well(result)
    assert "step-000000016 is damaged" in result.stdout
    assert "resumed at step 8" in result.stdout
    assert rows_without_timings(directory) == rows_without_timings(finished_run[0])

    for checkpoint in checkpoints.list_checkpoints(directory):
        flip_bit(checkpoint / "state.json")
    before = contents(directory)
    assert_one_sentence(forked(*RESUME, directory), 1, "no usable checkpoint", "another --run_dir")
    assert contents(directory) == before
