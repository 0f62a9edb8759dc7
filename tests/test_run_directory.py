"""The run directory: what is refused, what is locked, what is kept, and what is told of where a run was made."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support.commands import ROOT, TINY_RUN, assert_one_sentence
from support.files import contents
from training.errors import UserError

from training import config, run_directory
from training.log import log
from training.run_directory import RunDirectory

CONFIG = {"flags": {}, "precision": "float32", "device": "a CPU"}


@pytest.fixture(autouse=True)
def unlocked():
    """Gives the locks back that a test took."""
    yield
    for path in list(run_directory.locks):
        run_directory.locks.pop(path).close()


def begun(path, resume=False, step=0):
    """Enters and begins; the same process may do so twice."""
    directory = RunDirectory(path, resume)
    directory.enter()
    directory.begin(CONFIG, step)
    return directory


def made(path, *argv):
    """A run directory that holds a run with these flags, and no checkpoint; nothing is locked."""
    path.mkdir()
    flags = config.parse([*argv, "--run_dir", str(path)])
    (path / "config.json").write_text(json.dumps(CONFIG | {"flags": config.saved_flags(flags)}))
    return path


# ---------------------------------------------------------------------------------------------------------------
# What is refused


def test_new_run_takes_a_missing_or_an_empty_directory_and_leaves_it_so(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        assert RunDirectory(path).begun() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "remedy"), [("config.json", "--resume"), ("notes.txt", "--run_dir"), (".hidden", "--run_dir")]
)
def test_new_run_refuses_a_directory_that_holds_anything(tmp_path, name, remedy):
    (tmp_path / name).write_text("kept")
    with pytest.raises(UserError, match=remedy) as caught:
        RunDirectory(tmp_path)
    assert caught.value.status == 1
    assert (tmp_path / name).read_text() == "kept"


def test_new_run_refuses_a_file(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="--run_dir"):
        RunDirectory(tmp_path / "file")


@pytest.mark.parametrize("name", sorted(run_directory.UNBEGUN))
def test_new_run_takes_a_directory_in_which_a_start_was_cut_short(tmp_path, name):
    (tmp_path / name).write_text("{")
    begun(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()).items() >= CONFIG.items()
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "train.log", ".lock"}


def test_resume_without_a_checkpoint_is_for_a_run_that_never_had_one(tmp_path):
    directory = RunDirectory(made(tmp_path / "run"), resume=True)
    assert directory.restore(None, None) is None
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 10}\n')
    with pytest.raises(UserError, match=r"no checkpoint.*another --run_dir"):
        RunDirectory(tmp_path / "run", resume=True)


def test_unwritable_directory_is_told(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"cannot be written .*choose another --run_dir"):
        RunDirectory(tmp_path / "file" / "run").enter()
    assert (tmp_path / "file").read_text() == "kept"


def test_new_run_that_comes_second_is_refused_though_the_directory_was_empty_before(tmp_path):
    """Both found it empty before they loaded their data; the other one entered it first, and was killed."""
    directory = RunDirectory(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="exists already: continue it with --resume"):
        directory.enter()
    assert (tmp_path / "config.json").read_text() == "{}"


# ---------------------------------------------------------------------------------------------------------------
# What is there


def test_what_was_begun_is_known_before_it_is_entered(tmp_path):
    path = made(tmp_path / "run", "--width", "0.5")
    (path / "checkpoints" / "step-000000012").mkdir(parents=True)
    before = contents(path)
    with pytest.raises(UserError, match="no usable checkpoint"):
        RunDirectory(path, resume=True)
    shutil.rmtree(path / "checkpoints")
    there = RunDirectory(path, resume=True).begun()
    assert (there.flags.width, there.precision, there.step, there.seed_dtype) == (0.5, "float32", 0, "int64")
    assert contents(path) == before


def test_entering_a_run_to_resume_changes_nothing_but_its_lock(tmp_path):
    path = made(tmp_path / "run")
    before = contents(path)
    RunDirectory(path, resume=True).enter()
    after = contents(path)
    assert after.pop(path / ".lock")
    assert after.pop(path / "train.log") == b""
    assert after == before


def test_resumed_run_forgets_what_tells_of_later_steps_or_of_a_former_end(tmp_path):
    path = made(tmp_path / "run")
    (path / "snapshots").mkdir()
    for step in (4, 8, 12):
        (path / "snapshots" / f"step-{step:09d}.npz").write_text("x")
    for name in ("summary.json", "predictions.npz", "curves.png", "mine.txt"):
        (path / name).write_text("x")
    begun(path, resume=True, step=8)
    assert sorted(file.name for file in (path / "snapshots").iterdir()) == ["step-000000004.npz", "step-000000008.npz"]
    assert not {"summary.json", "predictions.npz", "curves.png"} & {file.name for file in path.iterdir()}
    assert (path / "mine.txt").read_text() == "x"


def test_config_tells_of_every_process_that_trained_the_run(tmp_path):
    begun(tmp_path)
    first = json.loads((tmp_path / "config.json").read_text())
    assert first["versions"].keys() >= {"python", "tensorflow", "numpy"}
    made_with = {name: first[name] for name in ("device", "versions", "git_commit")}
    assert first["history"] == [{"step": 0} | made_with]
    begun(tmp_path, resume=True, step=16)
    second = json.loads((tmp_path / "config.json").read_text())
    assert second["history"] == [{"step": step} | made_with for step in (0, 16)]


def test_history_of_an_older_config_begins_with_what_it_says(tmp_path):
    path = made(tmp_path / "run")
    older = json.loads((path / "config.json").read_text()) | {"device": "another", "git_commit": "c0ffee"}
    (path / "config.json").write_text(json.dumps(older))
    begun(path, resume=True, step=3)
    first, second = json.loads((path / "config.json").read_text())["history"]
    assert (first["step"], first["device"], first["git_commit"]) == (0, "another", "c0ffee")
    assert (second["step"], second["device"]) == (3, "a CPU")


# ---------------------------------------------------------------------------------------------------------------
# The log


def test_log_goes_to_stdout_and_to_the_file_of_the_run(tmp_path, capsys):
    path = begun(tmp_path / "deep" / "run").path
    log.info("a line")
    assert capsys.readouterr().out == "a line\n"
    assert (path / "train.log").read_text() == "a line\n"


def test_reopened_run_appends_to_its_log(tmp_path):
    for text in ("first", "second"):
        begun(tmp_path, resume=text == "second")
        log.info(text)
    assert (tmp_path / "train.log").read_text() == "first\nsecond\n"


# ---------------------------------------------------------------------------------------------------------------
# Two processes


def test_second_process_is_refused_and_reading_is_not(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    RunDirectory(directory, resume=True).enter()  # this process is the first
    before = contents(directory)
    result = forked("train.py", "--resume", "--run_dir", directory, "--epochs", "3")
    assert_one_sentence(result, 1, directory, f"in use by process {os.getpid()} on", "--run_dir")
    assert contents(directory) == before
    result = forked("evaluate.py", "table", "--run_dir", directory, "--format", "csv")
    assert result.returncode == 0, result.stderr
    assert contents(directory) == before


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    script = (
        "import os; from training.run_directory import RunDirectory\n"
        f"RunDirectory({str(tmp_path)!r}).enter(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True).returncode == -9
    assert re.match(r"process \d+ on ", (tmp_path / ".lock").read_text())
    RunDirectory(tmp_path).enter()
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_resumed_run_keeps_the_precision_it_was_begun_with(forked, tmp_path):
    """--precision auto may choose another on another machine; both ways, so that one differs from what this one has."""
    argv = [*TINY_RUN, "--precision", "auto", "--epochs", "1"]
    for precision in ("float32", "bfloat16"):
        directory = tmp_path / precision
        chosen = (
            "import os; from training import device, settings, trainer\n"
            f"settings.choose_precision = lambda *_: device.Precision({precision!r}, '')\n"
            "trainer.Metrics = lambda *_: os._exit(3)"  # right after config.json
        )
        assert forked("train.py", *argv, "--run_dir", directory, before=chosen).returncode == 3
        result = forked("train.py", "--resume", "--run_dir", directory)
        assert result.returncode == 0, result.stderr
        assert f"precision  {precision} convolutions" in result.stdout
