"""Other platforms: one sentence where the program cannot run."""

import subprocess
import sys

import pytest
from support.commands import ROOT

# What Windows does not have, after what this system's own modules need of it.
WINDOWS = """
import argparse, json, logging, multiprocessing, os, pathlib, platform, runpy, shlex, shutil, signal, socket, subprocess
import sys, tempfile
sys.modules["fcntl"] = None
del signal.SIGHUP
sys.platform = "win32"
sys.argv = [{script!r}, "--help"]
runpy.run_path({script!r}, run_name="__main__")
"""


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "report.py"])
def test_windows_is_told_in_one_sentence(script):
    result = subprocess.run(
        [sys.executable, "-c", WINDOWS.format(script=script)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert "WSL" in line
