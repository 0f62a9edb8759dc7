"""Environments that people meet: no network, full or read-only disks, odd paths, notebooks, other directories."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from support import commands
from support.commands import OFFLINE, ROOT, TINY_RUN, assert_one_sentence, assert_success
from support.files import read_rows, rows_without_timings

from training import checkpoints, cifar10

TRAINING = [*TINY_RUN, "--ema_decay", "0.90", "--epochs", "2"]  # like `finished_run`
PATH = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # `python` is this interpreter


def shell(command, cwd, **environment):
    """Runs a line of bash; returns a CompletedProcess."""
    variables = {**os.environ, **OFFLINE, "PATH": PATH, **environment}
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=variables, capture_output=True, text=True, timeout=600)


def quoted(*arguments):
    return shlex.join(map(str, arguments))


# ---------------------------------------------------------------------------------------------------------------
# Network, disks and devices


def test_missing_data_without_network(forked, tmp_path):
    argv = [*TINY_RUN, "--dataset", "cifar10", "--data_dir", tmp_path, "--run_dir", tmp_path / "run"]
    assert_one_sentence(forked("train.py", *argv), 1, cifar10.ARCHIVE_URL, tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def mount(tmp_path):
    """Function: mounts a tmpfs with some options at tmp_path/disk, or changes its options."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options):
        remount = "remount," if os.path.ismount(disk) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{remount}{options}", "tmpfs", disk]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount a tmpfs")
        return disk

    yield mount
    if os.path.ismount(disk):
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_full_disk_then_resume(forked, mount):
    directory = mount("size=400k") / "run"
    result = forked("train.py", *TINY_RUN, "--epochs", 9, "--run_dir", directory)
    assert_one_sentence(result, 1, directory, "No space left on device", commands.resume_command(directory))
    checkpoints.read(directory)
    mount("size=40m")
    assert_success(forked("train.py", "--resume", "--run_dir", directory))
    assert [row["epoch"] for row in read_rows(directory)] == list(range(1, 10))


def test_read_only_run_directory(forked, mount):
    directory = mount("ro") / "run"
    assert_one_sentence(forked("train.py", *TINY_RUN, "--run_dir", directory), 1, directory, "--run_dir")


# ---------------------------------------------------------------------------------------------------------------
# Paths, variables and directories


def test_notebook_locale_and_link_change_nothing(finished_run, tmp_path):
    directory = tmp_path / "räksmörgås [1]  x"
    for module in ("data", "model", "ema"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit(77)")
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    result = shell(
        quoted("python", "train.py", *TRAINING, "--run_dir", directory),
        cwd=tmp_path,
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        PYTHONIOENCODING="ascii",
        LC_ALL="C",
        COLUMNS="1",
        PYTHONSAFEPATH="1",
        PYTHONPATH="",
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert rows_without_timings(directory) == rows_without_timings(finished_run[0])
    assert (directory / "curves.png").stat().st_size > 1000
    assert "r\\xe4ksm\\xf6rg\\xe5s" in result.stdout


def test_simultaneous_runs_get_own_directories(tmp_path):
    command = quoted("python", ROOT / "train.py", *TINY_RUN, "--epochs", 1)
    result = shell(f"{command} & {command}; wait", cwd=tmp_path)
    assert result.stdout.count("done: ") == 2, result.stderr
    directories = list((tmp_path / "runs").iterdir())
    assert len(directories) == 2
    for directory in directories:
        assert (directory / "summary.json").exists()


def test_named_commands_work_when_pasted(start, tmp_path):
    """In the person's directory, with a run directory that needs quotes."""
    directory = tmp_path / 'it\'s -a  [1]* "?" $x'
    argv = [*TINY_RUN, "--epochs", 100_000, "--checkpoint_every", 0.0001, "--run_dir", directory.name]
    process = start("train.py", *argv, cwd=tmp_path)
    commands.wait_until(lambda: checkpoints.last_step(directory), process)
    process.send_signal(signal.SIGUSR1)
    stopped = commands.finish(process)
    assert stopped.returncode == 128 + signal.SIGUSR1
    epochs = checkpoints.last_step(directory) // commands.EPOCH_STEPS + 1
    resume = re.search("continue with: (.*)", stopped.stderr)[1]
    result = shell(f"{resume} --epochs {epochs}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert read_rows(directory)[-1]["epoch"] == epochs
    compare = re.search("compare: +(.*)", result.stdout)[1]
    assert shell(compare, cwd=tmp_path).returncode == 0
