"""Several replicas: the numbers of one device, equal on all; lost workers; refused configurations."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support import commands, tiny
from support.commands import OFFLINE, ROOT, TINY_RUN, finish, resume_command, wait_until
from support.files import read_arrays, read_rows
from support.replicas import UNTIL

import data
import model
from analysis.restored_run import Network
from training import checkpoints, workers
from training.cli import UserError

ENDLESS = ["train.py", *TINY_RUN, "--ema_decay", "0.9", "--epochs", 100_000, "--strategy", "multiworker"]


@pytest.fixture(scope="module")
def launch():
    """Function: starts a command as one process, or as workers 0 to n - 1 of a cluster; returns the processes.

    `extra(index)` are additional arguments of a worker; `addresses` are those in TF_CONFIG.
    """
    processes = []

    def start(command, task=None, addresses=()):
        variables = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"} | OFFLINE
        if task:
            variables["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(addresses)}, "task": task})
        argv, pipes = [sys.executable, *map(str, command)], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(argv, cwd=ROOT, env=variables, text=True, **pipes))
        return processes[-1]

    def launch(*command, workers=0, addresses=None, extra=lambda index: []):
        if not workers:
            return [start([*command, *extra(0)])]
        addresses = addresses or [f"127.0.0.1:{port}" for port in free_ports(workers)]
        tasks = [{"type": "worker", "index": index} for index in range(workers)]
        return [start([*command, *extra(task["index"])], task, addresses) for task in tasks]

    yield launch
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def free_ports(count):
    """Returns ports on which nothing listens; another process could take one before it is used."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


# ---------------------------------------------------------------------------------------------------------------
# The numbers of one device


@pytest.fixture(scope="module")
def expected():
    """Plain TensorFlow on one device, each half of a batch with its own batch statistics (ghost batch norm).

    Returns:
      (losses as in support.replicas, {variable name: array} after the last step).
    """
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        network = lambda x, **kwargs: model.classifier(x, width=0.05, dropout_rate=0, **kwargs)  # noqa: E731
        network(tf.zeros([1, 32, 32, 3]), phase=False)
        weights = tf.trainable_variables()
        stats = {v.op.name: v for v in tf.global_variables() if not v.trainable}
        halves = [
            {name: tf.get_variable(f"half{half}/{name}", initializer=v.initial_value) for name, v in stats.items()}
            for half in range(2)
        ]
        step = tf.train.get_or_create_global_step()
        batches = data.Batches(tiny.dataset().train, 16, 3, step)
        images, labels, _ = batches.local_batch(step)
        losses = []
        for half, x, y in zip(halves, tf.split(images, 2), tf.split(labels, 2), strict=True):
            getter = lambda getter, name, *args, half=half, **kwargs: half.get(name, getter(name, *args, **kwargs))  # noqa: E731
            losses.append(model.cross_entropy(network(x, phase=True, reuse=True, getter=getter), y))
        loss = tf.add_n(losses) / 2
        with tf.control_dependencies([loss, *tf.get_collection("update_ops")]):
            means = {name: tf.add_n([half[name].read_value() for half in halves]) / 2 for name in stats}
        with tf.control_dependencies(list(means.values())):
            synced = [copies[name].assign(means[name]) for copies in [stats, *halves] for name in stats]
        train_op = tf.train.AdamOptimizer(1e-3, beta1=0.5).minimize(loss, var_list=weights)
        ema = tf.train.ExponentialMovingAverage(0.9)
        with tf.control_dependencies([train_op, *synced]):
            averaged = tf.group(ema.apply([*weights, *stats.values()]))
        with tf.control_dependencies([averaged]):
            counted = step.assign_add(1)
        tiny.initialise(session)
        step_losses = []
        for done in range(UNTIL[-1]):
            if done % tiny.EPOCH_STEPS == 0:
                session.run(batches.shuffle)
            step_losses.append(session.run([loss, counted])[0])
        names = {v.op.name: v for v in tf.global_variables() if v.op.name.startswith("class/")}
        means = [np.mean(step_losses[first:end]) for first, end in zip((0, *UNTIL), UNTIL, strict=False)]
        return means, session.run(names)


@pytest.fixture(scope="module", params=["mirrored", pytest.param("multiworker", marks=pytest.mark.slow)])
def stepped(request, launch, tmp_path_factory):
    """Files of support.replicas: one process with two replicas, or two workers."""
    folder, mirrored = tmp_path_factory.mktemp("replicas"), request.param == "mirrored"
    argv = ["-m", "support.replicas", "--strategy", request.param, *(["--replicas", 2] if mirrored else [])]
    processes = launch(*argv, workers=0 if mirrored else 2, extra=lambda index: [folder / f"{index}.npz"])
    for process in processes:
        result = finish(process)
        assert result.returncode == 0, result.stderr
    return [read_arrays(folder / f"{index}.npz") for index in range(len(processes))]


def test_replicas_equal_ghost_batch_norm(stepped, expected):
    losses, variables = expected
    assert len([name for name in variables if name.endswith("weights/ExponentialMovingAverage")]) == 10
    for found in stepped:
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
        for name, value in variables.items():
            scale = np.abs(value).max()
            np.testing.assert_allclose(found[f"{name}@0"], value, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_copies_are_equal(stepped):
    copies = {}
    for found in stepped:
        for key, value in found.items():
            name, _, copy = key.partition("@")
            if copy and not name.startswith(("before/", "after/")):
                copies.setdefault(name, []).append(value.tobytes())
    assert len([name for name in copies if name.endswith("ExponentialMovingAverage")]) >= 50
    for name, (first, second) in copies.items():
        assert first == second, name


def test_nan_on_one_replica_skips_all(stepped):
    for found in stepped:
        assert found["skipped"] == 1
        before = {name.removeprefix("before/"): value for name, value in found.items() if name.startswith("before/")}
        assert any(name.startswith("class/") for name in before)
        for name, value in before.items():
            after = found[f"after/{name}"]
            if name.startswith("class/"):
                assert after.tobytes() == value.tobytes(), name
            if name.startswith(("global_step", "skipped")):
                assert after == value + 1, name


SHADOW = "/ExponentialMovingAverage"


@pytest.mark.parametrize(
    ("label", "weights", "statistics"),
    [("raw", "", ""), ("ema/0.9/raw", SHADOW, ""), ("ema/0.9/averaged", SHADOW, SHADOW)],
)
def test_sharded_evaluation_equals_one_device(stepped, label, weights, statistics):
    images = tiny.dataset().test.images
    network = Network(lambda: model.classifier(data.to_float(tf.constant(images)), phase=False, width=0.05))
    names = [variable.op.name for variable in network.variables]
    suffix = {name: statistics if name.endswith(("/mean", "/var")) else weights for name in names}
    for found in stepped:
        network.load({name: found[f"{name}{suffix[name]}@0"] for name in names})
        logits = found[f"logits/{label}"]
        assert logits.shape == (30, 10)
        np.testing.assert_allclose(logits, network.session.run(network.built), rtol=1e-5, atol=1e-5)


def test_replicas_share_each_batch():
    with tf.Graph().as_default(), tf.Session() as session:
        global_step, step = tf.train.get_or_create_global_step(), tf.placeholder(tf.int64, [])
        numbers = np.arange(64, dtype=np.uint8)
        images = np.broadcast_to(numbers[:, None, None, None], (64, 32, 32, 3))
        batches = data.Batches(data.Split(images, numbers.astype(np.int64)), 16, 3, global_step)
        parts = [batches.replica_batch(step, replica, 4) for replica in range(4)]
        whole = batches.local_batch(step)
        tiny.initialise(session)
        session.run(batches.shuffle)
        seen = []
        for number in range(4):
            found, (_, labels, _) = session.run([parts, whole], {step: number})
            np.testing.assert_array_equal(np.concatenate([part for _, part, _ in found]), labels)
            seen += list(labels)
            assert len({tuple(seed) for _, _, seed in found}) == 4
        assert sorted(seen) == list(range(64))


# ---------------------------------------------------------------------------------------------------------------
# Runs of two workers


@pytest.mark.slow
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
def test_lost_worker_ends_the_other(launch, tmp_path, signal_name):
    directory, lost = tmp_path / "run", ["SIGSTOP", "SIGKILL"].index(signal_name)
    processes = launch(*ENDLESS, "--run_dir", directory, workers=2)
    wait_until(lambda: checkpoints.was_evaluated(directory), processes[0])
    processes[lost].send_signal(signal.Signals[signal_name])
    start = time.monotonic()
    result = finish(processes[1 - lost])
    assert time.monotonic() - start < 90
    processes[lost].kill()
    commands.assert_one_sentence(result, 1, f"worker {lost}", resume_command(directory))

    epochs = read_rows(directory)[-1]["epoch"] + 2
    resume = ["train.py", "--resume", "--run_dir", directory, "--epochs", epochs]
    if lost == 1:
        results = [finish(process) for process in launch(*resume, workers=2)]
        assert [bool(result.stdout) for result in results] == [True, False]  # only the chief logs
    else:
        results = [finish(process) for process in launch(*resume, "--strategy", "mirrored", "--replicas", 4)]
    for result in results:
        commands.assert_success(result)
    assert [row["epoch"] for row in read_rows(directory)] == list(range(1, epochs + 1))


@pytest.mark.slow
def test_signal_to_one_worker_stops_all(launch, tmp_path):
    directory = tmp_path / "run"
    processes = launch(*ENDLESS, "--run_dir", directory, workers=2)
    wait_until(lambda: checkpoints.last_step(directory), processes[0])
    processes[1].send_signal(signal.SIGTERM)
    results = [finish(process) for process in processes]
    for result in results:
        commands.assert_one_sentence(
            result, 143, f"at step {checkpoints.last_step(directory)}", resume_command(directory)
        )


@pytest.mark.slow
def test_workers_with_other_flags_are_refused(launch, tmp_path):
    argv = [*ENDLESS, "--run_dir", tmp_path / "run"]
    for process in launch(*argv, workers=2, extra=lambda index: ["--seed", index]):
        commands.assert_one_sentence(finish(process), 2, "flags")


@pytest.mark.slow
def test_unreachable_worker_is_named(launch, tmp_path):
    argv = [*ENDLESS, "--run_dir", tmp_path / "run"]
    with socket.create_server(("0.0.0.0", 0)) as listener:
        used, own, closed = (f"127.0.0.1:{port}" for port in (listener.getsockname()[1], *free_ports(2)))
        for addresses, index in (((own, used), 1), ((own, closed), 1), ((used, closed), 0)):
            (process,) = launch(*argv, workers=1, addresses=addresses)
            commands.assert_one_sentence(finish(process), 1, f"worker {index}", addresses[index], "TF_CONFIG")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------------
# TF_CONFIG


@pytest.mark.parametrize(
    "text",
    [
        "worker 0",
        '{"cluster": {"worker": ["host"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["host:1", "host:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"ps": ["host:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": ["host:1"]}, "task": {"type": "worker", "index": 1}}',
    ],
)
def test_malformed_tf_config_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match="TF_CONFIG") as caught:
        workers.read_tf_config()
    assert caught.value.status == 2


def test_chief_job_precedes_workers(monkeypatch):
    cluster = {"worker": ["a:1"], "chief": ["b:2"]}
    for job, is_chief, peers in (("worker", False, {"chief 0": "b:2"}), ("chief", True, {"worker 0": "a:1"})):
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": job, "index": 0}}))
        task = workers.read_tf_config()
        assert (task.is_chief, task.peers) == (is_chief, peers)


def test_silent_server_does_not_answer():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not workers.ping(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.1)
