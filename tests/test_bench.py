"""The benchmark at a tiny width: the driver, its contestants, the machine, and the whole."""

import collections
import contextlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.commands import ROOT

import data
import model
from training.device import cores

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ceiling  # noqa: E402
import contestant as contestant_side  # noqa: E402
import driver  # noqa: E402
import machine  # noqa: E402
import network  # noqa: E402
import side_by_side  # noqa: E402
import startup  # noqa: E402
import tables  # noqa: E402

TINY = shlex.split("--rounds 1 --steps 2 --width 0.05 --train_size 64 --test_size 20 --batch_size 16")
PARAMETERS = 5_805  # of that network
HAS_TORCH = importlib.util.find_spec("torch") is not None


# ---------------------------------------------------------------------------------------------------------------
# The driver


ECHO = """
import json, sys
print('{"about": {"parameters": 7}}', flush=True)
for line in sys.stdin:
    print("a library's remark", flush=True)
    print(json.dumps({"heard": line.split()}), flush=True)
"""


@pytest.fixture
def contestant_of():
    """A driver.Contestant that runs the Python source given."""
    with contextlib.ExitStack() as stack:

        def make(source, deadline=None):
            made = driver.Contestant([sys.executable, "-c", source], deadline)
            stack.callback(made.close)
            return made

        yield make


def test_a_contestant_answers_what_it_is_asked(contestant_of):
    contestant = contestant_of(ECHO)
    assert contestant.about == {"parameters": 7}
    assert contestant.ask("run", 3) == {"heard": ["run", "3"]}
    contestant.close()
    assert contestant.closed


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("""print('{"skip": "it is not installed"}')""", "it is not installed"),
        ("raise ValueError('no such kernel')", "it ended with status 1: ValueError: no such kernel"),
        ("import sys; sys.exit('a; b')", "it ended with status 1: a; b"),
    ],
)
def test_a_contestant_that_cannot_run_says_why(contestant_of, source, why):
    with pytest.raises(driver.CannotRunError, match=re.escape(why)) as raised:
        contestant_of(source)
    assert isinstance(raised.value, driver.NotHereError) == ("skip" in source)


def test_a_contestant_that_takes_too_long_is_ended(contestant_of):
    started = time.monotonic()
    with pytest.raises(driver.CannotRunError, match="share of the time"):
        contestant_of("import time; time.sleep(60)", started + 0.5)
    assert time.monotonic() - started < 20


def test_out_of_memory_is_named_whatever_is_written_after_it():
    stderr = "Traceback\n  RESOURCE_EXHAUSTED: OOM when allocating tensor\nSomeError: a graph\n  File ..."
    assert driver.reason(stderr) == "RESOURCE_EXHAUSTED: OOM when allocating tensor"
    assert driver.reason("") == "no message"


def test_different_networks_are_no_comparison():
    driver.check_same_network({"a": {"parameters": 1}, "b": {"parameters": 1}, "c": {}})
    with pytest.raises(SystemExit, match="differ"):
        driver.check_same_network({"a": {"parameters": 1}, "b": {"parameters": 2}})


def test_a_side_by_side_contestant_that_cannot_run_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "absent.py").write_text("""print('{"skip": "it is not installed"}')""")
    monkeypatch.setattr(driver, "HERE", tmp_path)
    with contextlib.ExitStack() as stack:
        found = side_by_side.start({"absent": "absent.py --flag"}, [], stack)
    assert found == ({}, {"absent": "it is not installed"})


def test_memory_is_in_bytes_on_every_system(monkeypatch):
    linux = contestant_side.peak_bytes()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert linux // 1024 == pytest.approx(contestant_side.peak_bytes(), rel=0.1)


# ---------------------------------------------------------------------------------------------------------------
# The machine and the network


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", "amd-epyc-avx512_bf16"),
        (
            "model name\t: Intel(R) Xeon(R) Processor @ 2.10GHz\nflags\t\t: avx512f amx_bf16 avx512_bf16\n",
            "intel-xeon-amx_bf16-avx512_bf16",
        ),
        ("model name\t: AMD EPYC 7763 64-Core Processor\nflags\t\t: sse avx2\n", "amd-epyc-7763-avx2"),
        ("model name\t: some CPU\nflags\t\t: sse\n", "some"),
    ],
)
def test_a_result_file_is_named_after_the_processor(cpuinfo, name):
    assert machine.slug(machine.processor(cpuinfo), machine.features(cpuinfo)) == name


def test_the_machine_is_described():
    described = machine.machine()
    assert described["cpu"] and described["cores"] == cores()


def test_the_network_in_numbers_is_that_of_the_model(session):
    assert tuple(channels for _, channels in model.BLOCKS) == network.BLOCKS
    assert (network.IMAGE[0], *network.IMAGE) == data.IMAGE_SHAPE
    model.classifier(tf.zeros([1, *data.IMAGE_SHAPE]), phase=False, width=0.3)
    shapes = [v.shape.as_list() for v in tf.trainable_variables() if len(v.shape) == 4]
    assert shapes == [[3, 3, before, after] for _, before, after in network.layers(0.3)]


def test_the_flops_of_a_step_are_those_of_its_convolutions(session):
    x = tf.placeholder(tf.float32, [1, *data.IMAGE_SHAPE])
    loss = tf.reduce_sum(model.classifier(x, phase=True, width=0.1))
    gradients = tf.gradients(loss, tf.trainable_variables())
    assert all(gradient is not None for gradient in gradients)
    work = 0
    for op in session.graph.get_operations():
        if op.type == "Conv2D":
            images, outputs = op.inputs[0], op.outputs[0]
        elif op.type in ("Conv2DBackpropFilter", "Conv2DBackpropInput"):
            images, outputs = op.inputs[0] if op.type.endswith("Filter") else op.outputs[0], op.inputs[2]
            if op.type.endswith("Input") and images.shape[-1] == 3:
                continue  # of the images, which nothing asks for: pruned
        else:
            continue
        work += 2 * 9 * images.shape[-1] * np.prod(outputs.shape.as_list())
    assert network.step_flops(0.1) == work


def test_the_ceiling_runs_every_convolution_of_a_step(session):
    step = ceiling.convolutions(0.05, 2, tf.float32)
    session.run(tf.global_variables_initializer())
    metadata = tf.RunMetadata()
    session.run(step, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), run_metadata=metadata)
    labels = [node.timeline_label for device in metadata.step_stats.dev_stats for node in device.node_stats]
    ran = collections.Counter(found[0] for label in labels if (found := re.search(r"Conv2D\w*(?=\()", label)))
    assert ran == {"Conv2D": 9, "Conv2DBackpropFilter": 9, "Conv2DBackpropInput": 8}


# ---------------------------------------------------------------------------------------------------------------
# As a whole


def test_the_start_without_data_is_left_out_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "process_output", lambda command: (0.1, ""))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    measured = startup.measure([])
    assert measured["help"] == [0.1] * startup.HELPS
    assert "CIFAR-10 is not in the TFDS directory" in measured["skipped"] and "cifar10" not in measured


@pytest.mark.slow
def test_the_parts_of_the_start_make_up_the_whole(tiny_cifar10):
    flags = shlex.split("--width=0.05 --batch_size=8 --device=cpu --precision=float32")
    found = startup.first_step([*flags, f"--data_dir={tiny_cifar10.directory}"])
    assert list(found["parts"]) == ["imports", "device", "data", "settings", "graph", "variables", "first session.run"]
    assert all(seconds >= 0 for seconds in found["parts"].values())
    assert sum(found["parts"].values()) == pytest.approx(found["seconds"], rel=0.2)
    assert found["precision"] == "float32"


@pytest.mark.slow
def test_the_profile_of_a_step_is_by_kind_of_operation():
    flags = shlex.split("--width=0.05 --batch_size=8 --train_size=64 --test_size=8 --device=cpu --precision=float32")
    command = [sys.executable, BENCHMARKS / "step_profile.py", *flags]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    about, _, _, *rows = process.stdout.splitlines()
    assert about.endswith("; float32; a step of 8 images")
    shares = {name: float(share.rstrip("%")) for *name, _, share in map(str.split, rows) for name in [" ".join(name)]}
    assert {"Conv2D", "Conv2DBackpropFilter", "Conv2DBackpropInput"} <= shares.keys()
    assert shares.pop("all") == 100 == pytest.approx(sum(shares.values()), abs=2)


@pytest.mark.slow
def test_driver_end_to_end(tmp_path):
    output = tmp_path / "results" / "bench.json"
    names = ["ours-float32", "ours-bfloat16", "torch-float32", "habit", "ceiling-float32", "averages", "evaluation"]
    extra = ["--average_rounds", "3", "--average_steps", "1", "--output", output, "--only", *names]
    command = [sys.executable, BENCHMARKS / "bench.py", *TINY, *extra]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    result = json.loads(output.read_text())
    peers = {"torch-float32"} if HAS_TORCH else set()
    assert result["contestants"].keys() == {"ours-float32", "ours-bfloat16", "habit", "ceiling-float32"} | peers
    assert ("PyTorch, float32" in result["skipped"]) != HAS_TORCH
    for name in {"ours-float32", "ours-bfloat16", "habit"} | peers:
        assert result["contestants"][name]["about"]["parameters"] == PARAMETERS
    assert all(len(one["seconds"]) == 1 for one in result["contestants"].values())
    assert {count: len(seconds) for count, seconds in result["averages"]["seconds"].items()} == dict.fromkeys(
        "01248", 3
    )
    assert len(result["evaluation"]) == side_by_side.EVALUATIONS
    assert tables.text(result) in process.stdout


@pytest.mark.slow
def test_the_rows_of_a_gpu_are_rehearsed_on_a_cpu(tmp_path):
    """What fits into the budget runs; what does not says so. On a slow machine that may be the greater part."""
    output, seconds, started = tmp_path / "bench.json", 400, time.monotonic()
    command = [sys.executable, BENCHMARKS / "bench.py", "--device", "gpu", "--rehearse", "--budget", str(seconds)]
    process = subprocess.run([*command, "--output", output], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr
    assert time.monotonic() - started < seconds + 60
    result = json.loads(output.read_text())
    torch = {title: why for title, why in result["skipped"].items() if title.startswith("PyTorch")}
    others = {title: why for title, why in result["skipped"].items() if title not in torch}
    late = re.compile(r"it takes about \d+ s, and \d+ s were left|it was not done within its share of the time")
    assert all(late.fullmatch(why) for why in others.values()), others
    assert HAS_TORCH or set(torch.values()) == {"PyTorch is not installed: pip install -r requirements/bench.txt"}
    assert "ours-bfloat16-4" in result["rows"]
    if not others:
        named = [
            "ours-bfloat16-8",
            "ours-bfloat16-16",
            "ours-bfloat16-4-xla-on",
            "ours-float32-4",
            "ceiling-bfloat16-8",
        ]
        assert {*named, "matrix-float32", "steps_per_run-10", "evaluation", "averages", "long"} <= result["rows"].keys()
    assert "a rehearsal" in process.stdout and tables.text(result) in process.stdout
