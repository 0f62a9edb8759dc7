"""Fixtures that several test modules share: a graph and session, CIFAR-10 on disk, commands, finished runs."""

import os
import signal
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as training.cli does

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support import cifar10, forking
from support.commands import OFFLINE, ROOT, TINY_RUN, assert_success, finish

from analysis.restored_run import RestoredRun
from training import run_directory
from training.cli import SIGNALS
from training.log import log

tf.disable_eager_execution()  # as train.py does


@pytest.fixture
def session():
    """A session on a new default graph, seeded, on the CPU."""
    with tf.Graph().as_default(), tf.device("CPU:0"), tf.Session() as session:
        tf.set_random_seed(0)
        yield session


@pytest.fixture
def initialised(session):
    """Function: initialises every variable of the session's graph and returns the session."""

    def initialise(feeds=None):
        session.run(tf.global_variables_initializer())
        session.run(tf.local_variables_initializer(), feeds)
        return session

    return initialise


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def clean_process():
    """Restores the log and the signal handlers that a run changes, and releases the locks of run directories."""
    before = log.handlers[:], log.level, log.propagate
    signals = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in signals.items():
        signal.signal(number, handler)
    for handler in set(log.handlers) - set(before[0]):
        handler.close()
    log.handlers[:], log.level, log.propagate = before
    for path in list(run_directory.locks):
        run_directory.locks.pop(path).close()


@pytest.fixture
def tiny_cifar10(tmp_path):
    """20 training and 10 test images of random pixels under `tmp_path`, in the format of TFDS."""
    return cifar10.write(tmp_path / "tfds")


# ---------------------------------------------------------------------------------------------------------------
# Commands


@pytest.fixture(scope="session")
def start():
    """Function: starts `python <script> <arguments>` in the project's root, without GPU and network."""
    processes = []

    def start(script, *arguments, environment=None, cwd=ROOT):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": cwd}
        processes.append(subprocess.Popen(command, env={**os.environ, **OFFLINE, **(environment or {})}, **options))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def run(start):
    """Function: runs `python <script> <arguments>` and returns a CompletedProcess."""
    return lambda script, *arguments, **options: finish(start(script, *arguments, **options))


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """support.forking.Forks: like `run`, in processes forked after the import of TensorFlow."""
    return forking.Forks(lambda: tmp_path_factory.mktemp("forked"))


# ---------------------------------------------------------------------------------------------------------------
# Finished runs


@pytest.fixture(scope="session")
def finished_run(forked, tmp_path_factory):
    """(directory, stdout) of a run with one average; read-only."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    result = forked("train.py", *TINY_RUN, "--ema_decay", "0.90", "--epochs", 2, "--run_dir", directory)
    assert_success(result)
    return directory, result.stdout


@pytest.fixture(scope="session")
def bank_run(forked, tmp_path_factory):
    """Directory of a run with several averages and every policy; read-only."""
    directory = tmp_path_factory.mktemp("bank") / "run"
    averages = "--ema_decay 0.90 0.80 --ema_batch_stats averaged raw recomputed --ema_power 0.05 0.1 0.15"
    assert_success(forked("train.py", *TINY_RUN, *averages.split(), "--epochs", 2, "--run_dir", directory))
    return directory


@pytest.fixture(scope="session")
def restored(bank_run):
    """analysis.restored_run.RestoredRun of `bank_run`; call its `use` before anything else."""
    return RestoredRun(bank_run)
