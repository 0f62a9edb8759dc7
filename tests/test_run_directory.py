"""The run directory: what is refused, locked, kept and recorded."""

import json
import os
import shutil

import pytest
from support.commands import RESUME, TINY_RUN, assert_one_sentence, assert_success
from support.files import contents
from support.tiny import resolve

from training import flags
from training.cli import UserError
from training.log import log
from training.run_directory import RunDirectory, load_saved_run


def open_directory(path, *argv, step=0):
    """Opens a run directory and starts its log."""
    directory = RunDirectory(resolve("--run_dir", str(path), *argv))
    directory.start_log(step)
    return directory


def write_config(path, *argv, precision="float32"):
    """Creates the directory of a run without a checkpoint."""
    path.mkdir()
    saved = vars(flags.parse([*TINY_RUN, "--batch_size", "16", "--seed", "3", *argv, "--run_dir", str(path)]))
    (path / "config.json").write_text(json.dumps({"flags": saved, "precision": precision}))
    return path


@pytest.mark.parametrize("name", ["config.json", "notes.txt", ".hidden"])
def test_other_files_are_refused_and_kept(tmp_path, name):
    settings = resolve("--run_dir", str(tmp_path))
    (tmp_path / name).write_text("kept")  # by another process, after the flags were parsed
    with pytest.raises(UserError, match="--run_dir") as caught:
        RunDirectory(settings)
    assert caught.value.status == 1
    assert (tmp_path / name).read_text() == "kept"


def test_new_run_uses_an_empty_directory(tmp_path):
    (tmp_path / ".lock").touch()  # of a start that was killed
    open_directory(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "train.log", ".lock"}


def test_opening_a_run_changes_nothing(tmp_path):
    path = write_config(tmp_path / "run", precision="bfloat16")
    (path / "checkpoints" / "step-000000012").mkdir(parents=True)
    saved = load_saved_run(path)
    assert (saved.flags.width, saved.precision, saved.step) == (0.05, "bfloat16", 12)
    shutil.rmtree(path / "checkpoints")
    before = contents(path)
    directory = RunDirectory(resolve("--resume", "--run_dir", str(path)))
    assert directory.restore(None, None) == {}
    after = contents(path)
    assert after.pop(path / ".lock")
    assert after.pop(path / "train.log") == b""
    assert after == before


def test_resumed_run_deletes_later_files(tmp_path):
    path = write_config(tmp_path / "run")
    (path / "snapshots").mkdir()
    for step in (4, 8, 12):
        (path / "snapshots" / f"step-{step:09d}.npz").write_text("x")
    (path / "snapshots" / "step-000000012_mine.npz").write_text("x")
    for name in ("summary.json", "predictions.npz", "curves.png", "mine.txt"):
        (path / name).write_text("x")
    open_directory(path, "--resume", step=8)
    left = {file.name for file in path.rglob("*") if file.is_file()} - {"config.json", "train.log", ".lock"}
    assert left == {"step-000000004.npz", "step-000000008.npz", "step-000000012_mine.npz", "mine.txt"}


def test_config_lists_every_process(tmp_path):
    for argv, step in (([], 0), (["--resume"], 16)):
        open_directory(tmp_path, *argv, step=step)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["versions"].keys() >= {"python", "tensorflow", "numpy"}
    assert config["git_commit"] is None or len(config["git_commit"]) == 40
    made_with = {name: config[name] for name in ("device", "versions", "git_commit", "git_changed")}
    assert config["history"] == [{"step": 0} | made_with, {"step": 16} | made_with]


def test_resumed_run_keeps_its_precision(forked, tmp_path):
    path = write_config(tmp_path / "run", "--precision", "auto", "--epochs", "1", precision="bfloat16")
    assert_success(forked(*RESUME, path))
    assert json.loads((path / "summary.json").read_text())["precision"] == "bfloat16"


def test_log_is_printed_and_appended(tmp_path, capsys):
    path = tmp_path / "new" / "run"
    for text, argv in (("first", []), ("second", ["--resume"])):
        open_directory(path, *argv)
        log.info(text)
        assert capsys.readouterr().out == f"{text}\n"
    assert (path / "train.log").read_text() == "first\nsecond\n"


def test_second_process_is_refused(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    same = ["--seed", "0", "--batch_size", "32", "--epochs", "9"]
    RunDirectory(resolve("--resume", *same, "--run_dir", str(directory)))  # this process has the lock
    before = contents(directory)
    result = forked(*RESUME, directory, "--epochs", 3)
    assert_one_sentence(result, 1, directory, os.getpid(), "--run_dir")
    assert contents(directory) == before
    assert_success(forked("evaluate.py", "table", "--run_dir", directory, "--format", "csv"))
    assert contents(directory) == before
