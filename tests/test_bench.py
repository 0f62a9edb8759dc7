"""The benchmark at a tiny width: the driver, its contestants, and tables that come from the JSON alone."""

import collections
import copy
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench  # noqa: E402 - found through the line above
import ceiling  # noqa: E402
import tables  # noqa: E402

TINY = shlex.split("--rounds 1 --steps 2 --width 0.05 --train_size 64 --test_size 20 --batch_size 16 --device cpu")
PARAMETERS = 5_805  # of that network


def contestant(title, *seconds, **about):
    about = {"device": "CPU, a quick one, 4 cores", "precision": "float32", "parameters": 1_998_068} | about
    return {"title": title, "about": about, "seconds": list(seconds), "peak_bytes": 2_000_000_000}


@pytest.fixture
def result():
    """A result by hand: 3 rounds of 10 steps of 64 images, the machine twice as slow in the second."""
    return {
        "settings": {"rounds": 3, "steps": 10, "batch_size": 64, "train_size": 50_000, "test_size": 10_000},
        "machine": {"cpu": "a quick one", "cores": 4, "system": "Linux x86_64"},
        "versions": {"python": "3.11.7", "tensorflow": "2.21.0", "torch": "2.13.0"},
        "contestants": {
            "ours": contestant("train.py", 2.0, 4.0, 2.1),
            "ours-no-ema": contestant("train.py without EMA", 1.98, 3.96, 2.0),
            "ours-3-decays": contestant("train.py, 3 decays", 2.04, 4.08, 2.2),
            "torch-float32": contestant("PyTorch, float32", 5.0, 10.0, 5.0),
            "torch-bfloat16": contestant("PyTorch, bfloat16", 2.4, 4.8, 2.4),
            "habit": contestant("TF 1.x habit", 3.0, 6.0, 3.0),
            "ceiling": contestant("convolutions alone", 1.7, 3.4, 1.7),
        },
        "skipped": {"PyTorch, compiled": "there is no C++ compiler"},
        "evaluation": [16.0, 15.0, 17.0],
        "startup": {"help": [0.2, 0.3, 0.4], "first_step": [9.0, 8.5, 10.0]},
    }


def test_ratios_are_medians_of_ratios_within_a_round(result):
    assert tables.ratio(result, "ours", "torch-bfloat16") == pytest.approx(1.2)
    assert tables.ratio(result, "ours", "ceiling") == pytest.approx(0.85)
    assert tables.extra_time(result, "ours", "ours-no-ema") == pytest.approx(2.0 / 1.98 - 1)
    assert tables.per_extra_decay(result) == pytest.approx(0.01)
    assert tables.evaluation_share(result) == pytest.approx(16 / (50_000 / (640 / 2.1)))


def test_the_peer_is_the_fastest_pytorch(result):
    assert tables.fastest_peer(result) == "torch-bfloat16"
    assert "train.py over PyTorch, bfloat16, the fastest" in tables.text(result)


def test_a_verdict_follows_the_measured_value(result):
    verdicts = {row[0]: row[-1] for row in tables.targets(result)[1]}
    assert verdicts["train.py over PyTorch, bfloat16, the fastest"] == "yes"
    assert verdicts["train.py over the TF 1.x habit"] == "no"
    assert verdicts["seconds from the start to the first step done"] == "no"


def test_what_was_not_measured_is_a_dash_and_no_error(result):
    bare = copy.deepcopy(result) | {"evaluation": [], "startup": {}}
    bare["contestants"] = {"ours": bare["contestants"]["ours"]}
    rows = tables.targets(bare)[1]
    assert [row[1] for row in rows].count("-") == len(rows) - 1  # all but the memory
    del bare["contestants"]["ours"]
    assert "a quick one, 4 cores" in tables.text(bare)


def test_text_is_aligned_and_says_what_was_left_out(result):
    text = tables.text(result)
    heading, speeds, targets, skipped = text.split("\n\n")
    assert "1,998,068 parameters" in heading and "torch 2.13.0" in heading
    for table in (speeds, targets):
        assert len({len(line) for line in table.splitlines()}) == 1
    assert skipped == "PyTorch, compiled was left out: there is no C++ compiler"


def test_markdown_comes_from_the_json_alone(result, tmp_path, capsys):
    (tmp_path / "bench.json").write_text(json.dumps(result))
    bench.main(["--markdown", "--output", str(tmp_path / "bench.json")])
    printed = capsys.readouterr().out
    assert printed == tables.markdown(result) + "\n"
    assert "| train.py | float32 | 304.8 | 160.0 | 320.0 | 1.000 | 85.0% | 2.00 |" in printed
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_the_ceiling_runs_every_convolution_of_a_step(session):
    step = ceiling.convolutions(0.05, 2, tf.float32)
    session.run(tf.global_variables_initializer())
    metadata = tf.RunMetadata()
    session.run(step, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), run_metadata=metadata)
    labels = [node.timeline_label for device in metadata.step_stats.dev_stats for node in device.node_stats]
    ran = collections.Counter(found[0] for label in labels if (found := re.search(r"Conv2D\w*(?=\()", label)))
    assert ran == {"Conv2D": 9, "Conv2DBackpropFilter": 9, "Conv2DBackpropInput": 8}


@pytest.mark.slow
def test_driver_end_to_end(tmp_path):
    output = tmp_path / "results" / "bench.json"
    peers = {"torch-float32"} if importlib.util.find_spec("torch") else set()
    names = ["ours", "ours-no-ema", "torch-float32", "habit", "ceiling", "evaluation"]
    command = [sys.executable, BENCHMARKS / "bench.py", *TINY, "--output", output, "--only", *names]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    result = json.loads(output.read_text())
    assert result["contestants"].keys() == {"ours", "ours-no-ema", "habit", "ceiling"} | peers
    assert bool(peers) != ("PyTorch, float32" in result["skipped"])
    for name in {"ours", "ours-no-ema", "habit"} | peers:
        assert result["contestants"][name]["about"]["parameters"] == PARAMETERS
    assert all(len(one["seconds"]) == 1 for one in result["contestants"].values())
    assert len(result["evaluation"]) == 1
    assert tables.text(result) in process.stdout


def test_a_contestant_that_cannot_run_is_skipped_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "absent.py").write_text("""print('{"skip": "it is not installed"}')""")
    (tmp_path / "broken.py").write_text("raise ValueError('no such kernel')")
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "CONTESTANTS", {"absent": ("Absent", "absent.py"), "broken": ("Broken", "broken.py")})
    with bench.contextlib.ExitStack() as stack:
        contestants, skipped = bench.start(["absent", "broken"], [], stack)
    assert contestants == {}
    assert skipped["absent"] == "it is not installed"
    assert skipped["broken"].endswith("ended with status 1: ValueError: no such kernel")
