"""The commands as a black box: what they are called with, and how they fail."""

import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

# A network and a data set so small that a run is mostly TensorFlow's import.
TINY_RUN = shlex.split(
    "--dataset synthetic --width 0.05 --train_size 256 --test_size 64 --batch_size 32 --device cpu --precision float32"
)
PARAMETERS = 5_805  # of its network
EPOCH_STEPS = 256 // 32


def ended(process, timeout=120):
    """The end of a process, at most so many seconds from now; a CompletedProcess."""
    stdout, stderr = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def assert_one_sentence(result, status, *parts):
    """A command ended with the status and one line on stderr, in the name of its script, which holds `parts`."""
    assert result.returncode == status, result.stderr
    script = next(Path(argument).name for argument in map(str, result.args) if argument.endswith(".py"))
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"{script}: ")
    for part in parts:
        assert str(part) in lines[0]
