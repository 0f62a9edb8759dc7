"""The benchmark: failing implementations, statistics, tables of a hand-made result, and a tiny run of everything."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from support.commands import PARAMETERS, ROOT

import model

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench
import convolutions
import summarize
import tf1_baseline

FAKE = """
import json, os, sys, time
name, journal, fault = sys.argv[1:]
if fault == "crash":
    raise ValueError("no such kernel")
print(json.dumps({"parameters": 7}), flush=True)
for turn, line in enumerate(sys.stdin):
    print("a line of a library", flush=True)
    if fault == "hang":
        open(f"{journal}.pid", "w").write(str(os.getpid()))
        time.sleep(60)
    open(journal, "a").write(f"{name}{line}")
    print(json.dumps({"seconds": 0.5 + turn, "peak_bytes": 9}), flush=True)
"""


def test_turns_survive_failures(tmp_path):
    """Turns alternate in direction; a crashed or hanging implementation is skipped and ended."""
    faults = {"a": "", "b": "crash", "c": "", "d": "hang"}
    journal = tmp_path / "journal"
    commands = {name: [sys.executable, "-c", FAKE, name, journal, fault] for name, fault in faults.items()}
    processes = bench.take_turns(commands, rounds=3, steps=4, timeout=8)
    assert journal.read_text().split() == ["a4", "c4", "c4", "a4", "a4", "c4"]
    assert (processes["a"].about, processes["a"].seconds) == ({"parameters": 7}, [0.5, 1.5, 2.5])
    assert "no such kernel" in processes["b"].failure and processes["d"].failure and not processes["c"].failure
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "journal.pid").read_text()), 0)


def test_interval_covers_all_resamples(random):
    """The median of a resample of 11 values is at most the k-th if 6 draws or more are: a binomial distribution."""
    values = np.sort(random.normal(size=11))
    draws = np.arange(6, 12)
    ways = np.array([math.comb(11, count) for count in draws])
    at_most = [np.sum(ways * (k / 11) ** draws * (1 - k / 11) ** (11 - draws)) for k in range(1, 12)]
    expected = values[np.searchsorted(at_most, [0.025, 0.975])]
    assert summarize.interval(random.permutation(values)) == pytest.approx(expected)


def test_tables_compare_fastest_precisions():
    """Seven rounds; the machine is twice as slow in the second."""
    seconds = {"train.py-float32": 2.0, "train.py-bfloat16": 3.0, "pytorch-float32": 5.0, "pytorch-bfloat16": 2.4}
    seconds |= {"convolutions-float32": 1.7, "tf1-baseline": 3.0}
    seconds |= {"averages-0": 0.98, "averages-1": 1.0, "averages-8": 1.028}
    shared = {"group": 0, "batch_size": 64, "steps": 10, "peak_bytes": 2_000_000_000}
    shared["about"] = {"device": "CPU, AMD EPYC, 4 cores", "first_step_seconds": 1.0}
    rounds, rows = np.array([1, 2, 1, 1.1, 0.9, 1, 1]), []
    for name, value in seconds.items():
        rows.append({"name": name, "seconds": list(value * rounds), **shared})
    machine = {"cpu": "AMD EPYC", "family": 25, "model": 17, "cores": 4}
    assert summarize.processor({"machine": machine, "rows": rows}).startswith("AMD EPYC, family 25 model 17 (Zen 4)")
    speeds = {name: cells for name, *cells in summarize.table_of_speeds(rows).rows}
    assert speeds["train.py float32"] == ["320.0", "160.0", "355.6", "1.000", "0.850", "1.0", "2.00"]
    assert speeds["pytorch bfloat16"][3] == "0.833" and "averages 1" not in speeds
    assert [(value, verdict) for _, value, _, verdict in summarize.table_of_targets(rows).rows] == [
        ("1.20 [1.20, 1.20]", "met"),
        ("1.50 [1.50, 1.50]", "not met"),
        ("85.0% [85.0%, 85.0%]", "not met"),
        ("2.0% [2.0%, 2.0%]", "not met"),
        ("0.40% [0.40%, 0.40%]", "met"),
    ]
    assert summarize.target("", [0.9, 1.1], "{:.1f}", ">=", 1.0) == ["", "1.0 (0.9, 1.1)", ">= 1.0", "unsure"]


def test_readmes_match_results():
    summarize.main(["--check"])


def test_convolutions_are_those_of_training_step(session):
    step = convolutions.build(0.05, 2, tf.float32)
    session.run(tf.global_variables_initializer())
    metadata = tf.RunMetadata()
    session.run(step, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), run_metadata=metadata)
    labels = [node.timeline_label for device in metadata.step_stats.dev_stats for node in device.node_stats]
    kernels = Counter(match[0] for label in labels if (match := re.search(r"Conv2D\w*(?=\()", label)))
    assert kernels == {"Conv2D": 9, "Conv2DBackpropFilter": 9, "Conv2DBackpropInput": 8}


def test_baseline_computes_same_logits(session, random):
    x = tf.constant(random.normal(size=[4, 32, 32, 3]), tf.float32)
    with tf.variable_scope("class"):
        logits = tf1_baseline.classifier(x, 0.05, 0.0)
    expected = model.classifier(x, phase=True, reuse=True, width=0.05, dropout_rate=0.0)
    session.run(tf.global_variables_initializer())
    np.testing.assert_allclose(*session.run([logits, expected]), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [0, 500])
def test_tiny_run_of_everything(tmp_path, budget):
    peers = importlib.util.find_spec("torch") is not None
    names = {name for name in bench.IMPLEMENTATIONS if peers or not name.startswith("pytorch")}
    tiny = f"--rounds 1 --batch_sizes 16 --budget {budget} --width 0.05 --train_size 64 --only {' '.join(names)}"
    command = [sys.executable, "benchmarks/bench.py", *tiny.split(), "--output", tmp_path / "bench.json"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    rounds = {row["name"]: len(row["seconds"]) for row in result["rows"]}
    assert rounds == dict.fromkeys(names - {"averages"}, 1) | dict.fromkeys(bench.AVERAGES, 8)
    assert {row["about"].get("parameters", PARAMETERS) for row in result["rows"]} == {PARAMETERS}
