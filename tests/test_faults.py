"""What a run survives: kills, full disks, signals, a second process, damaged data; and what it never does."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile

import killing
import numpy as np
import pytest
from conftest import ROOT, TINY_RUN

import data
import runs
from errors import UserError

TRAINING = [*TINY_RUN, "--epochs", "2"]
RESUME = "python train.py --resume --run_dir"


def assert_one_sentence(result, status, *parts):
    """The process ended with the status and one line on stderr, which holds `parts`."""
    assert result.returncode == status, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    for part in parts:
        assert str(part) in lines[0]


def contents(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def rows_without_timings(directory):
    return [
        {name: value for name, value in row.items() if name not in killing.TIMINGS}
        for row in killing.read_rows(directory)
    ]


@pytest.fixture(scope="module")
def reference(forked, tmp_path_factory):
    """The directory of a run that nothing happened to; for reading only."""
    directory = tmp_path_factory.mktemp("reference") / "run"
    result = forked("train.py", *TRAINING, "--ema_decay", "0.90", "--run_dir", directory)
    assert result.returncode == 0, result.stderr
    return directory


def predictions(directory):
    with np.load(directory / "predictions.npz", allow_pickle=False) as saved:
        return dict(saved)


# ---------------------------------------------------------------------------------------------------------------
# Kills


def kill_again_and_again(directory, kills, epochs):
    script = [sys.executable, ROOT / "tests" / "killing.py", directory, "--kills", str(kills), "--epochs", str(epochs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    result = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr
    print(result.stdout)
    outcome = json.loads(result.stdout.splitlines()[-1])
    assert sum(outcome["killed"].values()) == kills
    assert outcome["rows"] == epochs
    return outcome["killed"]


def test_killed_run_ends_as_one_left_alone(tmp_path):
    killed = kill_again_and_again(tmp_path / "runs", kills=4, epochs=2)
    assert killed == {
        "runs.py open_directory": 1,
        "runs.py save_checkpoint": 1,
        "runs.py append": 1,
        "loop.py finish": 1,
    }


@pytest.mark.slow
def test_run_killed_30_times_ends_as_one_left_alone(tmp_path):
    kill_again_and_again(tmp_path / "runs", kills=30, epochs=24)


# ---------------------------------------------------------------------------------------------------------------
# A disk that fills up, and a signal during an evaluation: one after the other in the life of one run

# Lets files grow no further than so many bytes while a function runs.
FULL = """
import resource, runs, loop
original = {function}
def limited(*args, **kwargs):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))
    try:
        return original(*args, **kwargs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
{function} = limited
"""
STAGES = (
    ("step-000000008", "runs.save_checkpoint", 50_000),
    ("metrics.jsonl", "runs.Metrics.append", 100),
    ("events.out.tfevents", "runs.Events.add", 100),
    ("predictions.npz", "loop.Run.finish", 2000),
    ("curves.png", "runs.draw_curves", 5000),
)
SIGNALLED = """
import os, time, loop
predict = loop.Run.predict
def interrupted(self, label):
    os.kill(os.getpid(), 15)
    time.sleep(0.5)
    return predict(self, label)
loop.Run.predict = interrupted
"""


def test_full_disk_and_a_signal_cost_no_more_than_the_work_since_the_last_checkpoint(forked, reference, tmp_path):
    directory = tmp_path / "run"
    argv = [*TRAINING, "--ema_decay", "0.90", "--run_dir", directory]
    for name, function, size in STAGES:
        kept = {file: content for file, content in contents(directory).items() if "step-" in str(file)}
        result = forked("train.py", *argv, before=FULL.format(function=function, size=size))
        assert_one_sentence(result, 1, name, "File too large", "make room", f"{RESUME} {directory}")
        assert contents(directory).items() >= kept.items()
        assert not list(directory.rglob("*.new"))
        argv = ["--resume", "--run_dir", directory]

    shutil.rmtree(runs.checkpoints(directory)[-1])  # so that there is an evaluation to interrupt
    result = forked("train.py", *argv, before=SIGNALLED)
    assert_one_sentence(result, 143, "SIGTERM at step 16, checkpoint saved", f"{RESUME} {directory}")
    result = forked("train.py", *argv)
    assert result.returncode == 0, result.stderr
    assert rows_without_timings(directory) == rows_without_timings(reference)
    expected = predictions(reference)
    for label, logits in predictions(directory).items():
        np.testing.assert_array_equal(logits, expected[label])


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
    argv = [*TRAINING, "--checkpoint_every", "2", "--run_dir", directory]
    assert_one_sentence(forked("train.py", *argv), 1, directory, "No space left on device", RESUME)
    assert runs.checkpoints(directory)
    assert all(runs.damage(checkpoint) is None for checkpoint in runs.checkpoints(directory))
    small_disk("40m")
    result = forked("train.py", "--resume", "--run_dir", directory)
    assert result.returncode == 0, result.stderr
    assert [row["epoch"] for row in killing.read_rows(directory)] == [1, 2]


# ---------------------------------------------------------------------------------------------------------------
# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_first_signal_is_noted_and_the_second_ends_the_process_at_once(number):
    script = (
        "import signals, time\n"
        "with signals.graceful() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.signal: time.sleep(0.01)\n"
        "    print(stop.signal, flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{number.value}\n"
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number
    finally:
        process.kill()


# ---------------------------------------------------------------------------------------------------------------
# Two processes


def test_second_process_is_refused_and_reading_is_not(forked, reference, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(reference, directory)
    runs._lock(directory)  # this process is the first
    before = contents(directory)
    result = forked("train.py", "--resume", "--run_dir", directory, "--epochs", "3")
    assert_one_sentence(result, 1, directory, f"in use by process {os.getpid()} on", "--run_dir")
    assert contents(directory) == before
    result = forked("evaluate.py", "table", "--run_dir", directory, "--format", "csv")
    assert result.returncode == 0, result.stderr
    assert contents(directory) == before
    runs.locks.pop(directory.resolve()).close()


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    script = f"import runs, pathlib, os; runs._lock(pathlib.Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True).returncode == -9
    assert re.match(r"process \d+ on ", (tmp_path / ".lock").read_text())
    runs._lock(tmp_path)
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    runs.locks.pop(tmp_path.resolve()).close()


def test_new_run_that_comes_second_is_refused_though_the_directory_was_empty_before(tmp_path):
    """Both found it empty before they loaded their data; the other one opened it first, and was killed."""
    runs.check_directory(tmp_path, resume=False)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="exists already: continue it with --resume"):
        runs.open_directory(tmp_path, {})
    assert (tmp_path / "config.json").read_text() == "{}"
    runs.locks.pop(tmp_path.resolve()).close()


# ---------------------------------------------------------------------------------------------------------------
# Checkpoints: what a person sees (the ways to damage one are in test_runs.py)


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def test_damaged_newest_checkpoint_is_told_and_the_run_ends_the_same(forked, reference, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(reference, directory)
    flip_bit(runs.checkpoints(directory)[-1] / "model.data-00000-of-00001")
    result = forked("train.py", "--resume", "--run_dir", directory)
    assert result.returncode == 0, result.stderr
    assert "step-000000016 is damaged" in result.stdout
    assert "resumed at step 8" in result.stdout
    assert rows_without_timings(directory) == rows_without_timings(reference)


def test_no_whole_checkpoint_is_one_sentence_and_nothing_changes(forked, reference, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(reference, directory)
    for checkpoint in runs.checkpoints(directory):
        flip_bit(checkpoint / "state.json")
    before = contents(directory)
    result = forked("train.py", "--resume", "--run_dir", directory)
    assert_one_sentence(result, 1, "no usable checkpoint", "another --run_dir")
    assert contents(directory) == before
    with pytest.raises(UserError, match="no usable checkpoint"):
        runs.check_directory(directory, resume=True)


def test_resumed_run_keeps_the_precision_it_was_begun_with(forked, tmp_path):
    """--precision auto may choose another on another machine; both ways, so that one differs from what this one has."""
    argv = [*TINY_RUN, "--precision", "auto", "--epochs", "1"]
    for precision in ("float32", "bfloat16"):
        directory = tmp_path / precision
        chosen = (
            f"import devices; devices.choose_precision = lambda *_: {precision!r}; import signals; signals.graceful = 0"
        )
        assert (
            forked("train.py", *argv, "--run_dir", directory, before=chosen).returncode == 1
        )  # right after config.json
        result = forked("train.py", "--resume", "--run_dir", directory)
        assert result.returncode == 0, result.stderr
        assert f"precision  {precision} convolutions" in result.stdout


# ---------------------------------------------------------------------------------------------------------------
# Data (damaged records and metadata are in test_data.py)


def refused(directory):
    with pytest.raises(UserError) as caught:
        data.load("cifar10", directory)
    assert caught.value.status == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(shard, change):
    """Writes a shard anew, each tf.train.Example changed by `change`."""
    import tensorflow.compat.v1 as tf

    examples = [tf.train.Example.FromString(record) for record in tf.io.tf_record_iterator(str(shard))]
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for example in examples:
            change(example.features.feature)
            writer.write(example.SerializeToString())


def set_label(value):
    return lambda features: features["label"].int64_list.value.__setitem__(0, value)


def label_as_text(features):
    features["label"].bytes_list.value[:] = [b"cat"]


def no_image(features):
    del features["image"]


def image_of_noise(features):
    features["image"].bytes_list.value[:] = [b"\x89PNG\r\n\x1a\n" + bytes(50)]


@pytest.mark.parametrize(
    "change",
    [set_label(10), set_label(-1), set_label(2**40), label_as_text, no_image, image_of_noise],
    ids=["label 10", "label -1", "label 2^40", "label as text", "no image", "image of noise"],
)
def test_record_that_is_not_cifar10_is_refused_with_the_command_that_repairs_it(tiny_cifar10, change):
    rewrite(tiny_cifar10.shard("test"), change)
    sentence = refused(tiny_cifar10.directory)
    assert f"{tiny_cifar10.folder} is damaged" in sentence
    assert f"rm -r {tiny_cifar10.folder}" in sentence


def malicious_archive(root):
    """The hand-fetched archive's name, holding what climbs out of its directory and links that point out of it."""
    with tarfile.open(root / data.ARCHIVE, "w:gz") as archive:
        (root / "payload").write_text("evil")
        for name in ("../../escaped", "/tmp/escaped-from-an-archive", "cifar-10-batches-bin/test_batch.bin"):
            archive.add(root / "payload", name)
        link = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)


def test_archive_that_is_not_the_published_one_is_refused_before_it_is_unpacked(tmp_path):
    root = tmp_path / "deep" / "tfds"
    root.mkdir(parents=True)
    malicious_archive(root)
    before = contents(tmp_path)
    sentence = refused(root)
    assert f"rm {root / data.ARCHIVE}" in sentence
    assert data.ARCHIVE_URL in sentence
    assert contents(tmp_path) == before
    assert not os.path.exists("/tmp/escaped-from-an-archive")


PREPARE = """
import os, sys
sys.path.insert(0, {root!r})
import numpy as np, tensorflow_datasets as tfds
import data
kill = lambda: os.kill(os.getpid(), 9)
def examples(name, count):
    for index in range(count):
        if (name, index) == {moment!r}:
            kill()
        image = np.full((32, 32, 3), index, np.uint8)
        yield f"{{name}}_{{index}}", dict(id=f"{{name}}_{{index}}", image=image, label=index % 10)
builder = tfds.builder_cls("cifar10")
builder._split_generators = lambda *_: dict(train=examples("train", 20), test=examples("test", 10))
if {moment!r} == "before the rename":
    tfds.core.DatasetInfo.update_data_dir = tfds.core.DatasetInfo.write_to_directory = lambda *_: kill()
data._check_reachable = lambda _: None
print(data.load("cifar10", {directory!r}).source)
"""


def test_preparation_killed_at_any_moment_is_done_anew(forked, tmp_path):
    directory, script = tmp_path / "tfds", tmp_path / "prepare.py"
    directory.mkdir()
    for moment in (("train", 0), ("train", 10), ("test", 9), "before the rename", None):
        assert not (directory / "cifar10" / "3.0.2").exists()
        script.write_text(PREPARE.format(root=str(ROOT), moment=moment, directory=str(directory)))
        result = forked(script)
        assert result.returncode == (-9 if moment else 0), result.stderr
    assert "20 training and 10 test images" in result.stdout


# ---------------------------------------------------------------------------------------------------------------
# What never happens


SOURCES = sorted([*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py"), *ROOT.glob("tests/*.py")])
UNPICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_unpickles(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & UNPICKLERS
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in UNPICKLERS
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.load", "numpy.load"):
            assert "allow_pickle=False" in ast.unparse(node), f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only=True" in ast.unparse(node), f"line {node.lineno}"


LISTENING = """
import os, loop
def sockets():
    inodes = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:"):
            inodes.add(target[8:-1])
    found = []
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        lines = open(f"/proc/self/net/{protocol}").read().splitlines()[1:]
        found += [protocol for line in lines if line.split()[9] in inodes]
    return found
evaluate = loop.Run.evaluate
def checked(self):
    print("network sockets:", sockets())
    return evaluate(self)
loop.Run.evaluate = checked
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/net/tcp"), reason="needs /proc")
def test_run_opens_no_network_socket(forked, tmp_path):
    listening = LISTENING + "import socket; kept = socket.create_server(('127.0.0.1', 0))"
    for before, expected in ((LISTENING, "network sockets: []"), (listening, "network sockets: ['tcp']")):
        directory = tmp_path / str(len(before))
        result = forked("train.py", *TINY_RUN, "--epochs", "1", "--run_dir", directory, before=before)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout


# ---------------------------------------------------------------------------------------------------------------
# Memory

RESIDENT = """
import loop
append = loop.runs.Metrics.append
def measured(self, row):
    append(self, row)
    with open("/proc/self/statm") as statm, open({file!r}, "a") as file:
        print(int(statm.read().split()[1]) * 4096 / 1e6, file=file)
loop.runs.Metrics.append = measured
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_resident_size_is_flat_over_2000_steps_and_20_evaluations(forked, tmp_path):
    sizes = ["--train_size", "3200", "--epochs", "20"]
    file = tmp_path / "resident"
    result = forked(
        "train.py", *TINY_RUN, *sizes, "--run_dir", tmp_path / "run", before=RESIDENT.format(file=str(file))
    )
    assert result.returncode == 0, result.stderr
    megabytes = np.array(file.read_text().split(), float)
    assert len(megabytes) == 20
    settled = megabytes[5:]  # allocators take their share first
    slope = np.polyfit(np.arange(len(settled)), settled, 1)[0]
    print(f"resident size {settled.mean():.1f} MB, slope {slope:+.4f} MB per evaluation")
    assert slope < 0.1
