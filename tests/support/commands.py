"""Commands as black boxes: arguments, waiting, results."""

import shlex
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

OFFLINE = {  # an environment without GPU and network
    "CUDA_VISIBLE_DEVICES": "-1",
    "http_proxy": "http://127.0.0.1:9",  # a closed port
    "https_proxy": "http://127.0.0.1:9",
    "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
}

# The network and the data are so small that the import of TensorFlow takes most of a run's time.
TINY_RUN = shlex.split(
    "--dataset synthetic --width 0.05 --train_size 256 --test_size 64 --batch_size 32 --device cpu --precision float32"
)
PARAMETERS = 5_805  # of its network
EPOCH_STEPS = 256 // 32
RESUME = ("train.py", "--resume", "--run_dir")


def resume_command(directory):
    """Returns the command that an error message has to name."""
    return f"python {shlex.join(map(str, [*RESUME, directory]))}"


def wait_until(condition, process):
    """Waits for condition(); fails if the process ends before."""
    while not condition():
        assert process.poll() is None, finish(process)
        time.sleep(0.001)


def finish(process):
    """Waits for the end of a process, at most ten minutes; returns a CompletedProcess."""
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def assert_success(result):
    """Checks for exit status 0 and an empty stderr."""
    assert (result.returncode, result.stderr) == (0, "")


def assert_one_sentence(result, status, *parts):
    """Checks the exit status and that stderr is one line, which starts with the script's name and contains `parts`."""
    assert result.returncode == status, result.stderr
    script = next(Path(argument).name for argument in map(str, result.args) if argument.endswith(".py"))
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{script}: ")
    for part in parts:
        assert str(part) in lines[0]
