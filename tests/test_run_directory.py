"""The run directory: what is refused, what is locked, what is kept, and what is known of where a run was made."""

import json
import os
import shutil

import pytest
from support.commands import RESUME, TINY_RUN, assert_ended_well, assert_one_sentence
from support.files import contents

from training import flags, run_directory
from training.cli import UserError
from training.log import log
from training.run_directory import RunDirectory

CONFIG = {"precision": "float32", "device": "a CPU"}


@pytest.fixture(autouse=True)
def unlocked():
    """Gives the locks back that a test took."""
    yield
    for path in list(run_directory.locks):
        run_directory.locks.pop(path).close()


def directory_of(path, *argv):
    return RunDirectory(flags.build_parser().parse_args(["--run_dir", str(path), *argv]))


def begin(path, *argv, step=0):
    """Enters and begins; the same process may do so twice."""
    directory = directory_of(path, *argv)
    directory.enter()
    directory.begin(CONFIG, step)
    return directory


def made(path, *argv, **config):
    """A run directory that holds a run with these flags, and no checkpoint; nothing is locked."""
    path.mkdir()
    saved = vars(flags.parse([*argv, "--run_dir", str(path)]))
    (path / "config.json").write_text(json.dumps({"flags": saved, **CONFIG, **config}))
    return path


def test_new_run_takes_a_missing_or_an_empty_directory_and_leaves_it_so(tmp_path):
    assert directory_of(tmp_path).saved_run() is directory_of(tmp_path / "missing").saved_run() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "remedy"), [("config.json", "--resume"), ("notes.txt", "--run_dir"), (".hidden", "--run_dir")]
)
def test_new_run_refuses_what_holds_anything_before_it_enters_and_then(tmp_path, name, remedy):
    """Another process may have come and gone between the two."""
    directory = directory_of(tmp_path)
    (tmp_path / name).write_text("kept")
    for refused in (lambda: directory_of(tmp_path), directory.enter):
        with pytest.raises(UserError, match=remedy) as caught:
            refused()
        assert caught.value.status == 1
    assert (tmp_path / name).read_text() == "kept"


def test_a_file_in_the_place_of_the_directory_is_refused_and_kept(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="--run_dir"):
        directory_of(tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be written .*--run_dir"):
        directory_of(tmp_path / "file" / "run").enter()
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("name", [".lock", "train.log"])
def test_a_run_that_cannot_be_written_is_not_to_be_resumed_in_another_directory(tmp_path, name):
    place = made(tmp_path / "run") / name
    place.mkdir() if name == ".lock" else place.symlink_to("/proc/nonexistent")
    with pytest.raises(
        UserError, match=f"{name} cannot be written .*: remove what is in its place, or resume a copy of"
    ):
        directory_of(tmp_path / "run", "--resume").enter()


def test_a_copy_by_hard_links_has_a_log_of_its_own(tmp_path):
    (made(tmp_path / "run") / "train.log").write_text("before\n")
    directory_of(tmp_path / "run", "--resume").enter()
    shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=os.link)
    copy = directory_of(tmp_path / "copy", "--resume")
    with pytest.raises(UserError, match="in use"):  # by the lock that they share: never two in one
        copy.enter()
    run_directory.locks.pop((tmp_path / "run").resolve()).close()
    copy.enter()
    log.info("after")
    assert (tmp_path / "run" / "train.log").read_text() == "before\n"
    assert (tmp_path / "copy" / "train.log").read_text() == "before\nafter\n"


@pytest.mark.parametrize("name", sorted(run_directory.UNBEGUN))
def test_new_run_takes_a_directory_in_which_a_start_was_cut_short(tmp_path, name):
    (tmp_path / name).write_text("{")
    begin(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).items() >= CONFIG.items()
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "train.log", ".lock"}


def test_resume_without_a_checkpoint_is_for_a_run_that_never_had_one(tmp_path):
    directory = directory_of(made(tmp_path / "run"), "--resume")
    assert directory.restore(None, None) is None
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 10}\n')
    with pytest.raises(UserError, match=r"no checkpoint.*another --run_dir"):
        directory_of(tmp_path / "run", "--resume")


def test_what_was_begun_is_known_and_entering_it_changes_nothing_but_its_lock(tmp_path):
    path = made(tmp_path / "run", "--width", "0.5", precision="bfloat16")
    (path / "checkpoints" / "step-000000012").mkdir(parents=True)
    before = contents(path)
    with pytest.raises(UserError, match="no usable checkpoint"):
        directory_of(path, "--resume")
    shutil.rmtree(path / "checkpoints")
    directory = directory_of(path, "--resume")
    there = directory.saved_run()
    assert (there.flags.width, there.precision, there.step) == (0.5, "bfloat16", 0)
    assert contents(path) == before
    directory.enter()
    after = contents(path)
    assert after.pop(path / ".lock")
    assert after.pop(path / "train.log") == b""
    assert after == before


def test_resumed_run_forgets_what_is_of_later_steps_or_of_a_former_end(tmp_path):
    path = made(tmp_path / "run")
    (path / "snapshots").mkdir()
    for step in (4, 8, 12):
        (path / "snapshots" / f"step-{step:09d}.npz").write_text("x")
    (path / "snapshots" / "step-000000012_mine.npz").write_text("x")
    for name in ("summary.json", "predictions.npz", "curves.png", "mine.txt"):
        (path / name).write_text("x")
    begin(path, "--resume", step=8)
    left = {file.name for file in path.rglob("*") if file.is_file()} - {"config.json", "train.log", ".lock"}
    assert left == {"step-000000004.npz", "step-000000008.npz", "step-000000012_mine.npz", "mine.txt"}


def test_config_names_every_process_that_trained_the_run(tmp_path):
    for argv, step in (([], 0), (["--resume"], 16)):
        begin(tmp_path, *argv, step=step)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["versions"].keys() >= {"python", "tensorflow", "numpy"}
    made_with = {name: config[name] for name in ("device", "versions", "git_commit", "git_changed")}
    assert config["history"] == [{"step": 0} | made_with, {"step": 16} | made_with]


def test_resumed_run_keeps_the_precision_it_was_begun_with(forked, tmp_path):
    """On another machine, since for so narrow a network --precision auto takes float32."""
    path = made(tmp_path / "run", *TINY_RUN, "--precision", "auto", "--epochs", "1", precision="bfloat16")
    assert_ended_well(forked(*RESUME, path))
    assert json.loads((path / "summary.json").read_text())["precision"] == "bfloat16"


def test_log_goes_to_stdout_and_appended_to_the_file_of_the_run(tmp_path, capsys):
    path = tmp_path / "deep" / "run"
    for text, argv in (("first", []), ("second", ["--resume"])):
        begin(path, *argv)
        log.info(text)
        assert capsys.readouterr().out == f"{text}\n"
    assert (path / "train.log").read_text() == "first\nsecond\n"


def test_second_process_is_refused_and_reading_is_not(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    directory_of(directory, "--resume").enter()  # this process is the first
    before = contents(directory)
    result = forked(*RESUME, directory, "--epochs", "3")
    assert_one_sentence(result, 1, directory, f"process {os.getpid()} on", "kill -CONT", "--run_dir")
    assert contents(directory) == before
    assert_ended_well(forked("evaluate.py", "table", "--run_dir", directory, "--format", "csv"))
    assert contents(directory) == before
