"""What a run survives: kills, full disks, signals; and what it never does."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from support import killing
from support.commands import ROOT, TINY_RUN, assert_one_sentence
from support.files import assert_equal_arrays, checkpoint_values, contents, read_arrays, read_rows, rows_without_timings

from training import checkpoints

TRAINING = [*TINY_RUN, "--ema_decay", "0.90", "--epochs", "2"]  # that of `finished_run`
RESUME = "python train.py --resume --run_dir"


def assert_ended_alike(directory, reference):
    """Two runs of the same flags have the same rows, predictions, and variables."""
    assert rows_without_timings(directory) == rows_without_timings(reference)
    assert_equal_arrays(read_arrays(directory / "predictions.npz"), read_arrays(reference / "predictions.npz"))
    assert_equal_arrays(checkpoint_values(directory), checkpoint_values(reference))


# ---------------------------------------------------------------------------------------------------------------
# Kills


def kill_again_and_again(directory, kills, epochs):
    script = [sys.executable, "-m", "support.killing", directory, "--kills", str(kills), "--epochs", str(epochs)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert sum(outcome["killed"].values()) == kills
    assert outcome["rows"] == epochs
    return outcome["killed"]


def test_killed_run_ends_as_one_left_alone(tmp_path):
    killed = kill_again_and_again(tmp_path / "runs", kills=4, epochs=2)
    assert killed == {str(moment): 1 for moment in (*killing.NAMED[:3], killing.LAST)}


@pytest.mark.slow
def test_run_killed_30_times_ends_as_one_left_alone(tmp_path):
    killed = kill_again_and_again(tmp_path / "runs", kills=30, epochs=24)
    assert killed.keys() >= {str(moment) for moment in (*killing.NAMED, killing.LAST)}


# Sends the process a signal when it evaluates, and gives it time to arrive.
SIGNALLED = """
import os, time
from training.trainer import Trainer
predict = Trainer.predict
def interrupted(self, label):
    os.kill(os.getpid(), 15)
    time.sleep(0.5)
    return predict(self, label)
Trainer.predict = interrupted
"""
REPLACING = """
from pathlib import Path
from support import killing
moment = killing.Moment("after", "posix.rename", "checkpoints.save")
killing.at(moment, Path({report!r}))()
"""


def test_kill_while_a_checkpoint_is_replaced_by_one_with_more_rows_loses_nothing(forked, finished_run, tmp_path):
    """A signal during an evaluation had the step saved without its row; its checkpoint makes room for one with it."""
    directory, report = tmp_path / "run", tmp_path / "report"
    result = forked("train.py", *TRAINING, "--run_dir", directory, before=SIGNALLED)
    assert_one_sentence(result, 143, "SIGTERM at step 8, checkpoint saved", f"{RESUME} {directory}")
    result = forked("train.py", "--resume", "--run_dir", directory, before=REPLACING.format(report=str(report)))
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert report.exists()
    assert checkpoints.found(directory) == []
    assert (directory / "checkpoints" / checkpoints.REPLACED).exists()
    result = forked("train.py", "--resume", "--run_dir", directory)
    assert result.returncode == 0, result.stderr
    assert "resumed at step 8" in result.stdout
    assert_ended_alike(directory, finished_run[0])


# ---------------------------------------------------------------------------------------------------------------
# A disk that fills up, and a signal during an evaluation: one after the other in the life of one run

# Lets files grow no further than so many bytes while a function runs.
FULL = """
import resource
import {module}
original = {module}.{function}
def limited(*args, **kwargs):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
    try:
        return original(*args, **kwargs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
{module}.{function} = limited
"""
STAGES = (
    ("step-000000008", "training.checkpoints", "save", 50_000),
    ("metrics.jsonl", "training.metrics", "Metrics.append", 100),
    ("events.out.tfevents", "training.metrics", "Events.add", 100),
    ("predictions.npz", "training.trainer", "Trainer.finish", 2000),
    ("curves.png", "training.trainer", "draw_curves", 5000),
)


def test_full_disk_and_a_signal_cost_no_more_than_the_work_since_the_last_checkpoint(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    argv = [*TRAINING, "--run_dir", directory]
    for name, module, function, size in STAGES:
        kept = {file: content for file, content in contents(directory).items() if "step-" in str(file)}
        before = FULL.format(module=module, function=function, size=size)
        result = forked("train.py", *argv, before=before)
        assert_one_sentence(result, 1, name, "File too large", "make room", f"{RESUME} {directory}")
        assert contents(directory).items() >= kept.items()
        assert not list(directory.rglob("*.new"))
        argv = ["--resume", "--run_dir", directory]

    shutil.rmtree(checkpoints.found(directory)[-1])  # so that there is an evaluation to interrupt
    result = forked("train.py", *argv, before=SIGNALLED)
    assert_one_sentence(result, 143, "SIGTERM at step 16, checkpoint saved", f"{RESUME} {directory}")
    result = forked("train.py", *argv)
    assert result.returncode == 0, result.stderr
    assert_ended_alike(directory, finished_run[0])


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many bytes at tmp_path/disk, or gives the one there that size."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size):
        remount = ["-o", "remount"] if os.path.ismount(disk) else []
        command = ["mount", "-t", "tmpfs", *remount, "-o", f"size={size}", "tmpfs", disk]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs; the limits on file size are tested all the same")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_really_full_disk_is_one_sentence_and_the_run_goes_on_when_there_is_room(forked, small_disk):
    directory = small_disk("400k") / "run"
    argv = [*TRAINING, "--checkpoint_every", "2", "--run_dir", directory]
    assert_one_sentence(forked("train.py", *argv), 1, directory, "No space left on device", RESUME)
    assert checkpoints.found(directory)
    assert all(checkpoints.damage(checkpoint) is None for checkpoint in checkpoints.found(directory))
    small_disk("40m")
    result = forked("train.py", "--resume", "--run_dir", directory)
    assert result.returncode == 0, result.stderr
    assert [row["epoch"] for row in read_rows(directory)] == [1, 2]


# ---------------------------------------------------------------------------------------------------------------
# What never happens


FOLDERS = ("training", "analysis", "benchmarks", "results", "tests")
SOURCES = sorted([*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))])
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_unpickles(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & UNPICKLERS
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in UNPICKLERS
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle=False" in ast.unparse(node), f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node), f"line {node.lineno}"


LISTENING = """
import os
from training.trainer import Trainer
def sockets():
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:"):
            inodes.add(target[8:-1])
    found = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        lines = open(f"/proc/self/net/{protocol}").read().splitlines()[1:]
        found += [protocol for line in lines if line.split()[9] in inodes]
    return found
evaluate = Trainer.evaluate
def checked(self):
    print("network sockets:", sockets())
    return evaluate(self)
Trainer.evaluate = checked
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="needs /proc")
def test_run_opens_no_network_socket(forked, tmp_path):
    listening = LISTENING + "import socket; kept = socket.create_server(('127.0.0.1', 0))"
    for before, expected in ((LISTENING, "network sockets: []"), (listening, "network sockets: ['tcp']")):
        directory = tmp_path / str(len(before))
        result = forked("train.py", *TINY_RUN, "--epochs", "1", "--run_dir", directory, before=before)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout


# ---------------------------------------------------------------------------------------------------------------
# Memory

RESIDENT = """
from training.metrics import Metrics
append = Metrics.append
def measured(self, row):
    append(self, row)
    with open("/proc/self/statm") as statm, open({file!r}, "a") as file:
        print(int(statm.read().split()[1]) * 4096 / 1e6, file=file)
Metrics.append = measured
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_resident_size_is_flat_over_2000_steps_and_20_evaluations(forked, tmp_path):
    sizes = ["--train_size", "3200", "--epochs", "20"]
    file = tmp_path / "resident"
    result = forked(
        "train.py", *TINY_RUN, *sizes, "--run_dir", tmp_path / "run", before=RESIDENT.format(file=str(file))
    )
    assert result.returncode == 0, result.stderr
    megabytes = np.array(file.read_text().split(), float)
    assert len(megabytes) == 20
    settled = megabytes[5:]  # allocators take their share first
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    print(f"resident size {settled.mean():.1f} MB, slope {slope:+.4f} MB per evaluation")
    assert slope < 0.1
