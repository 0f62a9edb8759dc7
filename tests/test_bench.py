"""The benchmark: contestants that fail, statistics, tables from a result made by hand, and a tiny real run of all."""

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
from analysis.formatting import as_markdown, as_text

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench  # noqa: E402 - found through the line above
import convolutions  # noqa: E402
import habit  # noqa: E402
import tables  # noqa: E402

needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs requirements/bench.txt")

CONTESTANT = """
import json, os, sys, time
name, journal, fault = sys.argv[1:]
if fault == "crash":
    raise ValueError("no such kernel")
print(json.dumps({"parameters": 7}), flush=True)
for turn, line in enumerate(sys.stdin):
    print("a remark of a library", flush=True)
    if turn == 1 and fault == "hang":
        open(f"{journal}.pid", "w").write(str(os.getpid()))
        time.sleep(60)
    if turn == 1 and fault == "memory":
        sys.exit("RESOURCE_EXHAUSTED: OOM when allocating tensor\\nSomeError: a graph\\n  File ...")
    open(journal, "a").write(f"{name}{line}")
    print(json.dumps({"seconds": 0.5 + turn, "peak_bytes": 9}), flush=True)
"""


def take_turns(journal, faults, *arguments, **limits):
    """bench.take_turns of contestants, name to fault, that write their turns into a file."""
    commands = {name: [sys.executable, "-c", CONTESTANT, name, journal, fault] for name, fault in faults.items()}
    return bench.take_turns(commands, *arguments, **limits)


def test_turns_go_forwards_and_backwards(tmp_path):
    rows, skipped = take_turns(tmp_path / "journal", {"a": "", "b": "", "c": ""}, 3, 4)
    assert (tmp_path / "journal").read_text().replace("\n", "") == "a4b4c4c4b4a4a4b4c4" and not skipped
    assert rows["b"] == {"about": {"parameters": 7}, "seconds": [0.5, 1.5, 2.5], "peak_bytes": 9}


def test_a_contestant_that_fails_leaves_the_others_to_go_on(tmp_path):
    faults = {"a": "", "b": "crash", "c": "hang", "d": "memory", "e": ""}
    rows, skipped = take_turns(tmp_path / "journal", faults, 3, 1, patience=8)
    assert {name: len(row["seconds"]) for name, row in rows.items()} == {"a": 3, "e": 3}
    expected = {"b": "no such kernel", "c": "within its time", "d": "OOM when allocating tensor"}
    assert skipped.keys() == expected.keys() and all(why in skipped[name] for name, why in expected.items())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "journal.pid").read_text()), 0)


def test_within_a_budget_the_most_important_come_first_and_alone():
    groups = [(list(names), size) for names, size in bench.groups(bench.parse(["--device", "gpu"]))]
    assert groups[:2] == [(["train.py-bfloat16"], 64), (["train.py-bfloat16"], 512)]
    assert groups.index((list(bench.AVERAGES), 64)) < groups.index((["train.py-float32"], 64))


def test_only_a_whole_run_with_the_defaults_may_replace_a_kept_result():
    assert bench.is_whole(bench.parse([]), {}) and bench.is_whole(bench.parse(["--device", "gpu"]), {})
    assert not bench.is_whole(bench.parse([]), {"pytorch-bfloat16, batch 64": "it is not installed"})
    for other in ("--rounds 9", "--width 0.5", "--batch_sizes 32", "--only tf1-habit", "--budget 100"):
        assert not bench.is_whole(bench.parse(other.split()), {})


def test_the_interval_is_that_of_all_resamples(random):
    """Of 11 values the median of a resample is at most the k-th where 6 draws or more are: a binomial."""
    values = np.sort(random.normal(size=11))
    draws = np.arange(6, 12)
    ways = np.array([math.comb(11, count) for count in draws])
    at_most = [np.sum(ways * (k / 11) ** draws * (1 - k / 11) ** (11 - draws)) for k in range(1, 12)]
    expected = values[np.searchsorted(at_most, [0.025, 0.975])]
    assert tables.interval(random.permutation(values)) == pytest.approx(expected)


def row(name, seconds, group=0):
    about = {"device": "CPU, AMD EPYC, 4 cores", "first_step_seconds": 1.0}
    described = {"name": name, "group": group, "batch_size": 64, "steps": 10, "about": about}
    return described | {"seconds": list(seconds), "peak_bytes": 2_000_000_000}


@pytest.fixture
def result():
    """By hand: 7 rounds, the machine twice as slow in the second."""
    seconds = {"train.py-float32": 2.0, "train.py-bfloat16": 3.0, "pytorch-float32": 5.0, "pytorch-bfloat16": 2.4}
    seconds |= {"convolutions-float32": 1.7, "tf1-habit": 3.0}
    seconds |= {"averages-0": 0.98, "averages-1": 1.0, "averages-8": 1.028}
    return {
        "settings": {"rounds": 7},
        "machine": {"cpu": "AMD EPYC", "family": 25, "model": 17, "cores": 4, "system": "Linux x86_64"},
        "rows": [row(name, one * np.array([1, 2, 1, 1.1, 0.9, 1, 1])) for name, one in seconds.items()],
        "skipped": {"pytorch-float32-compiled, batch 64": "there is no C++ compiler"},
    }


def cells(table):
    """First cell of each row to the others."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {first: others for first, *others in rows}


def test_the_tables_of_a_result(result):
    """Each side is at its faster precision, and what is compared is a ratio within a round."""
    first, speeds, targets, skipped = tables.everything(result, as_markdown).split("\n\n")
    assert first.startswith("AMD EPYC, family 25 model 17 (Zen 4), 4 cores") and "7 rounds" in first
    assert cells(speeds)["train.py float32"] == ["320.0", "160.0", "355.6", "1.000", "0.850", "1.0", "2.00"]
    assert cells(speeds)["pytorch bfloat16"][3] == "0.833" and "averages 1" not in cells(speeds)
    measured = {name: (value, verdict) for name, (value, _, verdict) in cells(targets).items()}
    assert measured["train.py over PyTorch, each at its best"] == ("1.20 [1.20, 1.20]", "met")
    assert measured["train.py over the TF 1.x habit"] == ("1.50 [1.50, 1.50]", "not met")
    assert measured["EMA adds to the step"] == ("2.0% [2.0%, 2.0%]", "not met")
    assert measured["each extra decay adds"] == ("0.40% [0.40%, 0.40%]", "met")
    assert "pytorch-float32-compiled" in skipped and "no C++ compiler" in skipped


def test_ratios_are_within_a_round_and_an_interval_needs_six():
    assert tables.ratio(row("a", [1.0, 4.0, 2.0]), row("b", [2.0, 4.0, 8.0])).tolist() == [2.0, 1.0, 4.0]
    assert tables.show([1.0, 3.0, 2.0, 2.0, 2.0], "{:.0f}") == "2 (1, 3, 2, 2, 2)"
    assert tables.show([1.0, 3.0, 2.0, 2.0, 2.0, 2.0], "{:.0f}").startswith("2 [")
    alone, other = row("a", [1.0, 1.0, 4.0]), row("b", [4.0, 2.0, 2.0, 2.0], group=1)
    assert tables.ratio(alone, other) == [2.0]  # they took no turns: only medians are compared


def test_a_bound_is_met_by_the_whole_interval():
    for *values, verdict in ([1.1, 1.2, "met"], [0.9, 0.8, "not met"], [0.9, 1.1, "unsure"], [1.0, "met"]):
        assert tables.target("", values, "{:.1f}", ">=", 1.0)[-1] == verdict
        assert tables.target("", [-value for value in values], "{:.1f}", "<=", -1.0)[-1] == verdict


def test_the_tables_are_written_between_the_marks_and_checked(result, tmp_path):
    readme, folder = tmp_path / "README.md", tmp_path / "bench"
    folder.mkdir()
    (folder / "one.json").write_text(json.dumps(result))
    readme.write_text("before\n<!-- benchmarks: speed -->\nold\n<!-- end -->\nafter\n")
    with pytest.raises(SystemExit, match="--write"):
        tables.main(["--check"], [readme], folder)
    tables.main(["--write"], [readme], folder)
    tables.main(["--check"], [readme], folder)
    assert readme.read_text() == f"before\n<!-- benchmarks: speed -->\n{tables.short([result])}<!-- end -->\nafter\n"
    tables.main(["--check"])  # of the READMEs of this project


def test_a_result_is_named_after_the_processor(result, tmp_path):
    for cpuinfo, name in {
        "cpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n" * 2: "amd-epyc-family-26-model-2-zen-5",
        "model\t\t: 143\nmodel name\t: Intel(R) Xeon(R)\ncpu family\t: 6\n": "intel-xeon-family-6-model-143",
        "CPU part\t: 0xd4f\n": "family-unknown",
    }.items():
        (tmp_path / "cpuinfo").write_text(cpuinfo)
        result["machine"] = bench.machine(tmp_path / "cpuinfo")
        assert re.search(rf"{name}-\d+-cores$", tables.slug(result))


def test_the_convolutions_are_those_of_a_training_step(session):
    step = convolutions.convolutions(0.05, 2, tf.float32)
    session.run(tf.global_variables_initializer())
    metadata = tf.RunMetadata()
    session.run(step, options=tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), run_metadata=metadata)
    labels = [node.timeline_label for device in metadata.step_stats.dev_stats for node in device.node_stats]
    ran = Counter(found[0] for label in labels if (found := re.search(r"Conv2D\w*(?=\()", label)))
    assert ran == {"Conv2D": 9, "Conv2DBackpropFilter": 9, "Conv2DBackpropInput": 8}


def test_the_habit_computes_what_the_model_computes(session, random):
    x = tf.constant(random.normal(size=[4, 32, 32, 3]), tf.float32)
    with tf.variable_scope("class"):
        logits = habit.classifier(x, 0.05, 0.0)
    expected = model.classifier(x, phase=True, reuse=True, width=0.05, dropout_rate=0.0)
    session.run(tf.global_variables_initializer())
    np.testing.assert_allclose(*session.run([logits, expected]), rtol=1e-3, atol=1e-4)


def run(*command):
    return subprocess.run([sys.executable, *map(str, command)], cwd=BENCHMARKS, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "peers"), [(0, False), (500, False), pytest.param(0, True, marks=needs_torch)])
def test_a_tiny_run_of_all(tmp_path, budget, peers):
    names = {name for name in [*bench.CONTESTANTS, "averages"] if name.startswith("pytorch") == peers}
    tiny = f"--rounds 1 --batch_sizes 16 --budget {budget} --width 0.05 --train_size 64 --only {' '.join(names)}"
    process = run("bench.py", *tiny.split(), "--output", tmp_path / "bench.json")
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "bench.json").read_text())
    rounds = {row["name"]: len(row["seconds"]) for row in result["rows"]}
    assert rounds == dict.fromkeys(names - {"averages"}, 1) | ({} if peers else dict.fromkeys(bench.AVERAGES, 8))
    assert {row["about"].get("parameters", PARAMETERS) for row in result["rows"]} == {PARAMETERS}
    assert not result["skipped"] and tables.everything(result, as_text) in process.stdout


def test_a_budget_that_is_too_small_measures_nothing(tmp_path):
    process = run("bench.py", "--budget", 1, "--only", "tf1-habit", "--output", tmp_path / "bench.json")
    assert process.returncode == 1 and "nothing was measured" in process.stderr
    assert not (tmp_path / "bench.json").exists()
