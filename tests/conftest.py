"""Fixtures that several test modules share: a graph and session each, CIFAR-10 on disk, commands, finished runs."""

import os
import shlex
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support import cifar10, forking
from support.commands import CUT_OFF, ROOT, TINY_RUN, assert_ended_well, ended

from analysis.restored_run import RestoredRun
from training.log import log

tf.disable_eager_execution()  # as train.py does


@pytest.fixture
def session():
    """A session on a fresh default graph, seeded, on the CPU."""
    with tf.Graph().as_default(), tf.device("CPU:0"), tf.Session() as session:
        tf.set_random_seed(0)
        yield session


@pytest.fixture
def initialised(session):
    """Initialises every variable of the session's graph; returns the session."""

    def initialise(feeds=None):
        session.run(tf.global_variables_initializer())
        session.run(tf.local_variables_initializer(), feeds)
        return session

    return initialise


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def fresh_log():
    """Leaves the run's logger as it was found: a run points it to its train.log."""
    before = log.handlers[:], log.level, log.propagate
    yield
    for handler in set(log.handlers) - set(before[0]):
        handler.close()
    log.handlers[:], log.level, log.propagate = before


@pytest.fixture
def tiny_cifar10(tmp_path):
    """20 training and 10 test images of random pixels under `tmp_path`, in the format of TFDS."""
    return cifar10.write(tmp_path / "tfds")


# ---------------------------------------------------------------------------------------------------------------
# Commands


@pytest.fixture(scope="session")
def start():
    """Starts `python <script> <arguments>` from the project's root, with no GPU and no network in sight."""
    processes = []

    def start(script, *arguments, environment=None):
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
        processes.append(subprocess.Popen(command, env={**os.environ, **CUT_OFF, **(environment or {})}, **options))
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def run(start):
    """Runs `python <script> <arguments>` to its end; a CompletedProcess."""
    return lambda script, *arguments, **options: ended(start(script, *arguments, **options))


@pytest.fixture(scope="session")
def forked(tmp_path_factory):
    """As `run`, in processes forked after TensorFlow's import; support.forking.Forks."""
    return forking.Forks(lambda: tmp_path_factory.mktemp("forked"))


# ---------------------------------------------------------------------------------------------------------------
# Finished runs


def trained(forked, directory, argv):
    """Two epochs of TINY_RUN with more flags; the CompletedProcess."""
    result = forked("train.py", *TINY_RUN, *shlex.split(argv), "--epochs", 2, "--run_dir", directory)
    assert_ended_well(result)
    return result


@pytest.fixture(scope="session")
def finished_run(forked, tmp_path_factory):
    """(directory, stdout) of a run with one average; for reading only."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    return directory, trained(forked, directory, "--ema_decay 0.90").stdout


@pytest.fixture(scope="session")
def bank_run(forked, tmp_path_factory):
    """The directory of a run with a bank of averages and every policy; for reading only."""
    directory = tmp_path_factory.mktemp("bank") / "run"
    averages = "--ema_decay 0.90 0.80 --ema_batch_stats averaged raw recomputed --ema_power 0.05 0.1 0.15"
    trained(forked, directory, averages)
    return directory


@pytest.fixture(scope="session")
def restored(bank_run):
    """analysis.restored_run.RestoredRun of `bank_run`; whoever asks it something has it use a label first."""
    return RestoredRun(bank_run)
