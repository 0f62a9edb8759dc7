"""Several replicas: the numbers of one device, the same on all of them; workers that die; what is refused."""

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
from support import tiny
from support.commands import ROOT, TINY_RUN, assert_one_sentence, ended
from support.files import checkpoint_values, read_arrays, read_rows
from support.replicas import FLAGS, UNTIL

import data
import model
from analysis.restored_run import Network, RestoredRun
from training import checkpoints, flags, places, workers
from training.cli import UserError
from training.labels import Label

TRAINING = [*TINY_RUN, "--ema_decay", "0.9"]
PATIENCE = 400  # seconds, for machines that do a lot besides


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """Starts a command as one process, or with workers=n as the n workers of a cluster on this machine.

    `cluster` is what TF_CONFIG says of it, if not that; `each` gives what worker i has on its command line besides.
    """
    processes = []

    def launch(*command, workers=0, cluster=None, each=lambda index: []):
        cluster = cluster or {"worker": [f"127.0.0.1:{port}" for port in free_ports(workers)]}
        tasks = [{"type": "worker", "index": index} for index in range(workers)]
        configs = [{"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})} for task in tasks] or [{}]
        clean = {name: value for name, value in os.environ.items() if name not in ("TF_CONFIG", "TF_CPP_MIN_LOG_LEVEL")}
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "CUDA_VISIBLE_DEVICES": "-1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started = [
            subprocess.Popen(
                [sys.executable, *map(str, [*command, *each(index)])], cwd=ROOT, env=clean | paths | config, **pipes
            )
            for index, config in enumerate(configs)
        ]
        processes.extend(started)
        return started

    yield launch
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def free_ports(count):
    """Ports that nothing listens on; another process may take one before it is used, which is rare."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


# ---------------------------------------------------------------------------------------------------------------
# The numbers of one device


def reference(replicas=2, decay=0.9):
    """Plain TensorFlow on one device that splits each batch into halves, each with batch statistics of its own.

    Returns:
      (losses as of support.replicas, variable name to array after the last step).
    """
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(3)
        network = lambda x, **kwargs: model.classifier(x, width=0.05, dropout_rate=0, **kwargs)  # noqa: E731
        network(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False)
        weights = tf.trainable_variables()
        stats = {v.op.name: v for v in tf.global_variables() if not v.trainable}
        halves = [
            {name: tf.get_variable(f"half{half}/{name}", initializer=v.initial_value) for name, v in stats.items()}
            for half in range(replicas)
        ]
        step = tf.train.get_or_create_global_step()
        batches = data.Batches(tiny.dataset().train, 16, 3, step)
        images, labels, _ = batches.local_batch(step)
        losses = []
        for half, x, y in zip(halves, tf.split(images, replicas), tf.split(labels, replicas), strict=True):
            getter = lambda getter, name, *args, half=half, **kwargs: half.get(name, getter(name, *args, **kwargs))  # noqa: E731
            losses.append(model.cross_entropy(network(x, phase=True, reuse=True, getter=getter), y))
        loss = tf.add_n(losses) / replicas
        with tf.control_dependencies([loss, *tf.get_collection("update_ops")]):
            means = {name: tf.add_n([half[name].read_value() for half in halves]) / replicas for name in stats}
        with tf.control_dependencies(list(means.values())):
            synced = [v[name].assign(means[name]) for v in [stats, *halves] for name in stats]
        train_op = tf.train.AdamOptimizer(1e-3, beta1=0.5).minimize(loss, var_list=weights)
        ema = tf.train.ExponentialMovingAverage(decay)
        with tf.control_dependencies([train_op, *synced]):
            done = tf.group(ema.apply([*weights, *stats.values()]))
        with tf.control_dependencies([done]):
            counted = step.assign_add(1)
        tiny.initialise(session)
        every = []
        for now in range(UNTIL[-1]):
            if now % tiny.EPOCH_STEPS == 0:
                session.run(batches.shuffle)
            every.append(session.run([loss, counted])[0])
        names = {v.op.name: v for v in tf.global_variables() if v.op.name.startswith("class/")}
        ends = [np.mean(every[a:b]) for a, b in zip((0, *UNTIL), UNTIL, strict=False)]
        return ends, session.run(names)


@pytest.fixture(scope="module", params=["mirrored", "multiworker"])
def stepped(request, launch, tmp_path_factory):
    """What support.replicas found on two replicas: in one process, or in each of two."""
    folder, workers = tmp_path_factory.mktemp("replicas"), 2 if request.param == "multiworker" else 0
    argv = ["-m", "support.replicas", "--strategy", request.param, *([] if workers else ["--devices", 2])]
    processes = launch(*argv, workers=workers, each=lambda index: [folder / f"{index}.npz"])
    for process in processes:
        result = ended(process)
        assert result.returncode == 0, result.stderr
    return [read_arrays(folder / f"{index}.npz") for index in range(len(processes))]


@pytest.fixture(scope="module")
def expected():
    return reference()


def test_twenty_steps_on_two_replicas_give_the_numbers_of_one_device_that_splits_its_batch(stepped, expected):
    losses, variables = expected
    assert len([name for name in variables if name.endswith("weights/ExponentialMovingAverage")]) == 10
    for found in stepped:
        np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
        for name, value in variables.items():
            scale = np.abs(value).max()
            np.testing.assert_allclose(found[f"{name}@0"], value, rtol=1e-5, atol=1e-5 * scale, err_msg=name)


def test_every_copy_of_every_variable_is_the_same_bit_for_bit(stepped):
    copies = {}
    for found in stepped:
        for key, value in found.items():
            name, _, copy = key.partition("@")
            if copy and not name.startswith(("before/", "spoilt/")):
                copies.setdefault(name, []).append(value.tobytes())
    assert len([name for name in copies if name.endswith("ExponentialMovingAverage")]) >= 50
    for name, values in copies.items():
        assert len(values) == 2, name
        assert len(set(values)) == 1, name


def test_a_step_that_is_not_finite_on_one_replica_changes_nothing_on_any(stepped):
    counters = ("global_step", "skipped")
    for found in stepped:
        assert found["skipped"] == 1
        before = {name.removeprefix("before/"): value for name, value in found.items() if name.startswith("before/")}
        assert before
        for name, value in before.items():
            after = found[f"spoilt/{name}"]
            if name.startswith("class/"):
                assert after.tobytes() == value.tobytes(), name
            if name.startswith(counters):
                assert after == value + 1, name


@pytest.fixture(scope="module")
def one_device():
    """The test classifier over the 30 test images, on one device."""
    images = tiny.dataset().test.images
    build = lambda: model.classifier(data.to_float(tf.constant(images)), phase=False, width=0.05)  # noqa: E731
    network = Network(build)
    yield network
    network.session.close()


SHADOW = "/ExponentialMovingAverage"


@pytest.mark.parametrize(
    ("label", "weights", "statistics"),
    [("raw", "", ""), ("ema/0.9/raw", SHADOW, ""), ("ema/0.9/averaged", SHADOW, SHADOW)],
)
def test_logits_that_are_computed_in_parts_are_those_of_one_device(stepped, one_device, label, weights, statistics):
    names = [variable.op.name for variable in one_device.variables]
    for found in stepped:
        suffix = {name: statistics if name.endswith(("/mean", "/var")) else weights for name in names}
        one_device.load({name: found[f"{name}{suffix[name]}@0"] for name in names})
        logits = found[f"logits/{label}"]
        assert logits.shape == (30, 10)
        np.testing.assert_allclose(logits, one_device.session.run(one_device.built), rtol=1e-5, atol=1e-5)


def test_each_image_is_in_one_replicas_part_of_one_batch_of_an_epoch():
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        numbers = np.arange(64, dtype=np.uint8)
        images = np.broadcast_to(numbers[:, None, None, None], (64, *data.IMAGE_SHAPE))
        batches = data.Batches(data.Split(images, numbers.astype(np.int64)), 16, 3, step)
        at = tf.placeholder(tf.int64, [])
        parts = [batches.replica_batch(at, replica, 4) for replica in range(4)]
        whole = batches.local_batch(at)
        tiny.initialise(session)
        session.run(batches.shuffle)
        seen = []
        for now in range(4):
            found, (_, labels, _) = session.run([parts, whole], {at: now})
            np.testing.assert_array_equal(np.concatenate([y for _, y, _ in found]), labels)
            seen += [y for _, y, _ in found]
            assert len({tuple(seed) for _, _, seed in found}) == 4
        assert sorted(np.concatenate(seen)) == list(range(64))


# ---------------------------------------------------------------------------------------------------------------
# A run, and workers that die


def wait_for_checkpoint(directory, processes, step):
    until = time.monotonic() + PATIENCE
    while checkpoints.last_step(directory) < step:
        dead = [process for process in processes if process.poll() is not None]
        assert not dead, dead[0].communicate()
        assert time.monotonic() < until
        time.sleep(0.1)


def evaluated_on_one_device(directory, labels):
    """Label to (accuracy, test logits) of the checkpoint, by a network that knows nothing of replicas."""
    run = RestoredRun(directory)
    found = {}
    for label in labels:
        logits = run.test_logits(Label.parse(label))
        found[label] = float(np.mean(logits.argmax(1) == run.dataset.test.labels)), logits
    return found


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_worker_stops_the_other_and_the_run_goes_on_with_any_number(launch, tmp_path, killed):
    directory = tmp_path / "run"
    argv = ["train.py", "--run_dir", directory, "--strategy", "multiworker"]
    processes = launch(*argv, *TRAINING, "--epochs", 100_000, workers=2)
    wait_for_checkpoint(directory, processes, 16)
    processes[killed].send_signal(signal.SIGKILL)
    at = time.monotonic()
    result = ended(processes[1 - killed])
    assert time.monotonic() - at < 30
    assert_one_sentence(result, 1, f"worker {killed}", "gone", f"python train.py --resume --run_dir {directory}")
    assert checkpoints.damage(checkpoints.list_checkpoints(directory)[-1]) is None

    done, written = checkpoints.last_step(directory) // 8, checkpoint_values(directory)
    argv = ["train.py", "--resume", "--run_dir", directory, "--epochs"]
    if killed == 1:  # with as many workers again
        results = [ended(process) for process in launch(*argv, done + 2, workers=2)]
        assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
        assert [result.stderr for result in results] == ["", ""]
        assert "2 replicas on CPU:0 of 127.0.0.1:" in results[0].stdout
        assert results[1].stdout == ""
    else:
        (process,) = launch(*argv, done + 2, "--strategy", "mirrored", "--devices", 4)
        result = ended(process)
        assert result.returncode == 0, result.stderr
        assert "4 replicas on CPU:0, CPU:1, CPU:2, CPU:3: " in result.stdout
    last, predictions = read_rows(directory)[-1], read_arrays(directory / "predictions.npz")
    for label, (accuracy, logits) in evaluated_on_one_device(directory, last["classifiers"]).items():
        assert last["classifiers"][label] == accuracy
        np.testing.assert_allclose(predictions[label], logits, rtol=1e-5, atol=1e-5)
    if killed == 0:  # and with none
        (process,) = launch(*argv, done + 3, "--strategy", "none")
        result = ended(process)
        assert result.returncode == 0, result.stderr
        assert [row["epoch"] for row in read_rows(directory)] == list(range(1, done + 4))
        assert shapes(written) == shapes(checkpoint_values(directory))


def shapes(values):
    """Name to type and shape of the variables in a checkpoint."""
    return {name: (value.dtype, value.shape) for name, value in values.items()}


@pytest.mark.slow
def test_a_signal_to_one_worker_stops_all_at_the_same_step(launch, tmp_path):
    directory = tmp_path / "run"
    processes = launch(
        "train.py", *TRAINING, "--epochs", 100_000, "--run_dir", directory, "--strategy", "multiworker", workers=2
    )
    wait_for_checkpoint(directory, processes, 8)
    processes[1].send_signal(signal.SIGTERM)
    results = [ended(process) for process in processes]
    for result in results:
        assert_one_sentence(result, 143, "stopped by SIGTERM at step", "--resume")
    assert results[0].stderr == results[1].stderr
    assert checkpoints.damage(checkpoints.list_checkpoints(directory)[-1]) is None


# ---------------------------------------------------------------------------------------------------------------
# What is refused


def refused(*argv):
    with pytest.raises(UserError) as error:
        places.choose(flags.parse([*FLAGS, *map(str, argv)]))
    assert "\n" not in str(error.value)
    return error.value


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--strategy", "mirrored", "--devices", 3], "--batch_size 16 cannot be split over 3 replicas: ask for 15"),
        (["--strategy", "mirrored", "--devices", 32], "ask for 32, or train on 16 (--devices 16)"),
        (["--devices", 2], "--strategy mirrored"),
        (["--strategy", "mirrored", "--devices", 2, "--xla", "on"], "--xla auto"),
    ],
)
def test_flags_that_do_not_go_together(argv, sentence):
    error = refused(*argv)
    assert error.status == 2
    assert sentence in str(error)


TASK = {"type": "worker", "index": 0}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "worker 0",
        "[" * 100_000,
        "[]",
        "{}",
        '{"cluster": {}, "task": {}}',
        *(
            json.dumps({"cluster": cluster, "task": task})
            for cluster, task in [
                ({"worker": []}, TASK),
                ({"worker": "host:1"}, TASK),
                ({"worker": ["host"]}, TASK),
                ({"worker": ["host:port"]}, TASK),
                ({"worker": ["host:70000"]}, TASK),
                ({"worker": [17]}, TASK),
                ({"worker": ["host:1", "host:1"]}, TASK),
                ({"ps": ["host:1"]}, TASK),
                ({"chief": ["a:1", "b:1"]}, {"type": "chief", "index": 0}),
                ({"worker": ["host:1"]}, {}),
                ({"worker": ["host:1"]}, {"type": "worker", "index": 1}),
                ({"worker": ["host:1"]}, {"type": "worker", "index": "0"}),
                ({"worker": ["host:1"]}, {"type": "chief", "index": 0}),
                ({"worker": ["host:1"]}, {"type": "worker", "index": False}),
            ]
        ),
    ],
)
def test_tf_config_that_is_missing_or_malformed(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    error = refused("--strategy", "multiworker")
    assert error.status == 2
    assert "TF_CONFIG" in str(error)
    assert '"cluster"' in str(error)  # how it has to be


def test_tf_config_with_and_without_a_chief():
    found = workers.read('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}')
    assert (found.chief, found.others) == (False, [("worker 0", "a:1")])
    chief = workers.read('{"cluster": {"worker": ["a:1"], "chief": ["b:2"]}, "task": {"type": "chief", "index": 0}}')
    assert (chief.chief, chief.others) == (True, [("worker 0", "a:1")])


@pytest.mark.slow
def test_a_worker_that_cannot_be_reached_is_named_within_a_minute(launch, tmp_path):
    """TF_CONFIG is missing; this worker's port is in use; nothing, or something else, listens at the other's."""
    argv = ["train.py", *TRAINING, "--strategy", "multiworker", "--run_dir", tmp_path / "run"]
    started = time.monotonic()
    (missing,) = launch(*argv)
    with socket.create_server(("0.0.0.0", 0)) as listener:
        used, a, b, nothing = listener.getsockname()[1], *free_ports(3)
        silent, unreachable, in_use = (
            launch(*argv, workers=1, cluster={"worker": [f"127.0.0.1:{own}", f"127.0.0.1:{other}"]})[0]
            for own, other in ((a, used), (b, nothing), (used, nothing))
        )
        assert_one_sentence(ended(missing), 2, "TF_CONFIG", "worker")
        busy = time.monotonic() - started  # what comes before TF_CONFIG is read, three seconds if there is nothing else
        assert_one_sentence(ended(in_use), 1, "worker 0", used, "listened on")
        for process, port in ((unreachable, nothing), (silent, used)):
            assert_one_sentence(ended(process), 1, "worker 1", f"127.0.0.1:{port}", "TF_CONFIG")
            assert time.monotonic() - started - busy < 55
    assert not (tmp_path / "run").exists()


def test_a_worker_with_the_index_of_another_says_so(launch, tmp_path):
    """It answers at two addresses: here the same port under two names, elsewhere its own machine's and the other's."""
    (port,) = free_ports(1)
    argv = ["train.py", *TRAINING, "--strategy", "multiworker", "--run_dir", tmp_path / "run"]
    (process,) = launch(*argv, workers=1, cluster={"worker": [f"127.0.0.1:{port}", f"localhost:{port}"]})
    assert_one_sentence(ended(process), 2, "TF_CONFIG says that this is worker 0", "index of its own address")


def test_a_name_that_no_address_can_have_does_not_answer():
    assert not workers.answers("foo..bar:1")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Socket closed", "(Socket closed)"),
        (
            "Graph execution error:\n\nDetected at node 'x'\n\nFrom /job:worker/task:0:\nIt is gone\n\t [[x]]",
            "(It is gone)",
        ),
        ("Device 1 is joining a group with size2, but that group has size 3 (x)", "clusters of different sizes"),
    ],
)
def test_the_error_of_a_session_becomes_a_sentence(message, reason):
    assert reason in places.lost(message, lambda reason: reason)


@pytest.mark.slow
def test_workers_that_were_started_with_different_flags(launch, tmp_path):
    argv = ["train.py", *TRAINING, "--strategy", "multiworker", "--run_dir", tmp_path / "run"]
    for process in launch(*argv, workers=2, each=lambda index: ["--seed", index]):
        assert_one_sentence(ended(process), 2, "other flags", "same command")
