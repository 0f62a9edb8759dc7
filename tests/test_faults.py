"""What a run survives: disks that fill up; and what it never does."""

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from support import files
from support.commands import RESUME, TINY_RUN, assert_ended_well, assert_one_sentence, resume_command
from support.damage import limited_file_size

from training import checkpoints
from training.metrics import Records

TRAINING = [*TINY_RUN, "--ema_decay", "0.90", "--epochs", "2"]  # that of `finished_run`

# ---------------------------------------------------------------------------------------------------------------
# Disks that fill up


def test_a_file_that_cannot_grow_is_named_and_the_run_goes_on_when_there_is_room(forked, finished_run, tmp_path):
    directory = tmp_path / "run"
    new = ["train.py", *TRAINING, "--run_dir", directory]
    assert_one_sentence(forked(*new, file_size=500), 1, directory, "File too large", "ulimit -f", "--run_dir")
    result = forked(*new, file_size=50_000)
    assert_one_sentence(result, 1, "step-000000008", "File too large", "ulimit -f", resume_command(directory))
    assert checkpoints.list_checkpoints(directory) == list(directory.rglob("*.new")) == []
    assert_ended_well(forked(*RESUME, directory))
    assert files.rows_without_timings(directory) == files.rows_without_timings(finished_run[0])
    files.assert_equal_arrays(files.checkpoint_values(directory), files.checkpoint_values(finished_run[0]))


@pytest.mark.parametrize(("file_size", "name"), [(6000, "predictions.npz"), (20_000, "curves.png")])
def test_an_end_that_cannot_be_written_is_left_to_a_resumption(forked, finished_run, tmp_path, file_size, name):
    directory = tmp_path / "run"
    shutil.copytree(finished_run[0], directory)
    before = files.contents(directory / "checkpoints")
    result = forked(*RESUME, directory, file_size=file_size)
    assert_one_sentence(result, 1, name, "File too large", "ulimit -f", resume_command(directory))
    assert files.contents(directory / "checkpoints") == before
    assert not (directory / name).exists()


@pytest.mark.parametrize(("room", "name"), [(100, "metrics.jsonl"), (400, "events.out.tfevents")])
def test_a_row_that_cannot_be_written_names_its_file(tmp_path, room, name):
    row = {"epoch": 1, "step": 10, "train_loss": 2.0, "classifiers": {f"ema/0.{n}/raw": 0.5 for n in range(1, 9)}}
    records = Records(tmp_path)
    with limited_file_size(room), pytest.raises(OSError, match="File too large") as caught:
        for _ in range(10):
            records.append(row)
            (tmp_path / "metrics.jsonl").write_bytes(b"")
    assert name in caught.value.filename


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
    result = forked("train.py", *TINY_RUN, "--epochs", 9, "--run_dir", directory)
    assert_one_sentence(result, 1, "No space left on device", "make room", resume_command(directory))
    assert checkpoints.list_checkpoints(directory)
    assert all(checkpoints.damage(checkpoint) is None for checkpoint in checkpoints.list_checkpoints(directory))
    small_disk("40m")
    assert_ended_well(forked(*RESUME, directory))
    assert [row["epoch"] for row in files.read_rows(directory)] == list(range(1, 10))


# ---------------------------------------------------------------------------------------------------------------
# What never happens


def network_sockets(pid):
    """Those that a process has open: a list of protocols."""
    opened = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            opened.add(os.readlink(descriptor))
    tables = {name: Path(f"/proc/{pid}/net/{name}").read_text().splitlines() for name in ("tcp", "tcp6", "udp", "udp6")}
    return [name for name in tables for line in tables[name][1:] if f"socket:[{line.split()[9]}]" in opened]


@pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="needs /proc")
def test_run_opens_no_network_socket(forked, tmp_path):
    with socket.create_server(("127.0.0.1", 0)):
        assert "tcp" in network_sockets(os.getpid())
    process = forked.start("train.py", *TINY_RUN, "--epochs", 1000, "--run_dir", tmp_path / "run")
    files.wait_for_a_row(tmp_path / "run", process)
    assert network_sockets(process.pid) == []
    process.kill()


class Mallinfo2(ctypes.Structure):
    _fields_ = [("sizes", ctypes.c_size_t * 10)]


def write_allocated(directory, file):
    """Between a run's rows, the least bytes that this process, which trains it, has from malloc, in so many lines."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    with open(file, "w") as output:
        for row in itertools.count(1):
            least = float("inf")
            while len(files.read_rows(directory)) < row:
                sizes = mallinfo2().sizes
                least = min(least, sizes[4] + sizes[7])  # mapped, and in the arenas
                time.sleep(0.02)
            print(least, file=output, flush=True)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_memory_is_flat_over_2000_steps_and_20_evaluations(forked, tmp_path):
    # Not the resident size: an allocator takes whole arenas, sooner or later, in which a leak has room for long.
    argv = [*TINY_RUN, "--train_size", 3200, "--epochs", 21, "--run_dir", tmp_path / "run"]
    beside = functools.partial(write_allocated, tmp_path / "run", tmp_path / "bytes")
    assert_ended_well(forked("train.py", *argv, beside=beside))
    megabytes = np.loadtxt(tmp_path / "bytes")[1:20] / 1e6
    slope = np.polyfit(np.arange(len(megabytes)), megabytes, 1)[0]
    print(f"{megabytes.mean():.1f} MB in use, {slope:+.4f} MB per evaluation")
    assert slope < 0.02
