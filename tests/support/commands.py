"""The commands as a black box: what they are called with, how they are watched, and how they fail."""

import shlex
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

CUT_OFF = {  # the environment without a GPU and a network
    "CUDA_VISIBLE_DEVICES": "-1",
    "http_proxy": "http://127.0.0.1:9",  # nothing listens there
    "https_proxy": "http://127.0.0.1:9",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
}

# A network and a data set so small that a run is mostly TensorFlow's import.
TINY_RUN = shlex.split(
    "--dataset synthetic --width 0.05 --train_size 256 --test_size 64 --batch_size 32 --device cpu --precision float32"
)
PARAMETERS = 5_805  # of its network
EPOCH_STEPS = 256 // 32
RESUME = ("train.py", "--resume", "--run_dir")


def resume_command(directory):
    """The command that a person is told to type."""
    return f"python {shlex.join(map(str, [*RESUME, directory]))}"


def wait_until(condition, process):
    """Waits for condition(), which has to hold before the process ends."""
    while not condition():
        assert process.poll() is None, ended(process)
        time.sleep(0.001)


def ended(process):
    """The end of a process, at most ten minutes from now, on a busy machine; a CompletedProcess."""
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def assert_ended_well(result):
    """A command did what it is for, and had nothing to say on stderr."""
    assert (result.returncode, result.stderr) == (0, "")


def assert_one_sentence(result, status, *parts):
    """A command ended with the status and one line on stderr, in the name of its script, which holds `parts`."""
    assert result.returncode == status, result.stderr
    script = next(Path(argument).name for argument in map(str, result.args) if argument.endswith(".py"))
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{script}: ")
    for part in parts:
        assert str(part) in lines[0]
