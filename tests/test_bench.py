"""The benchmark at a tiny width: the driver, its contestants, the budget, and tables that come from the JSON alone."""

import collections
import contextlib
import copy
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

import bench  # noqa: E402 - found through the line above
import budget  # noqa: E402
import ceiling  # noqa: E402
import contestant as contestant_side  # noqa: E402
import cpu_tables  # noqa: E402
import driver  # noqa: E402
import figures  # noqa: E402
import gpu  # noqa: E402
import gpu_tables  # noqa: E402
import layout  # noqa: E402
import machine  # noqa: E402
import network  # noqa: E402
import paired  # noqa: E402
import side_by_side  # noqa: E402
import startup  # noqa: E402
import tables  # noqa: E402

TINY = shlex.split("--rounds 1 --steps 2 --width 0.05 --train_size 64 --test_size 20 --batch_size 16")
PARAMETERS = 5_805  # of that network
HAS_TORCH = importlib.util.find_spec("torch") is not None


# ---------------------------------------------------------------------------------------------------------------
# Small differences


def noisy_rounds(random, costs, rounds=80):
    """Number of decays to seconds: a machine that drifts by a fifth, noise of 2%, and now and then another program."""
    drift = 1 + 0.2 * np.sin(np.arange(rounds) / 7)
    disturbed = 1 + (random.random((len(costs), rounds)) < 0.03) * random.uniform(0.2, 2.0, (len(costs), rounds))
    noise = random.normal(1, 0.02, (len(costs), rounds))
    return {count: cost * drift * noise[i] * disturbed[i] for i, (count, cost) in enumerate(costs.items())}


@pytest.mark.parametrize("each", [0.002, 0.01])
def test_cost_per_decay_tells_a_fifth_of_a_percent_from_one(random, each):
    found = paired.cost_per_decay(noisy_rounds(random, {count: 1 + each * (count - 1) for count in (1, 2, 4, 8)}))
    assert found.low <= each <= found.high
    assert found.high - found.low < 0.006
    assert abs(found.value - each) < 0.003


def test_cost_per_decay_without_noise_is_the_slope_over_the_step_with_one_decay():
    found = paired.cost_per_decay({count: [3 * (1 + 0.01 * (count - 1))] * 3 for count in (1, 2, 4, 8)})
    assert found == pytest.approx((0.01, 0.01, 0.01))


def test_cost_is_the_median_of_differences_within_a_round():
    assert paired.cost([1.1, 2.2, 9.0], [1.0, 2.0, 3.0]).value == pytest.approx(0.1)


def test_the_bootstrap_interval_covers_as_often_as_it_says(random):
    hits = 0
    for _ in range(200):
        estimate = paired.median_over_rounds(random.standard_t(3, 40))
        hits += estimate.low <= 0 <= estimate.high
    assert hits >= 180  # 95% of 200 is 190; below 180 once in ten thousand


def test_two_rounds_have_no_interval():
    assert paired.median_over_rounds([1.0, 3.0]) == (2.0, None, None)


def test_turns_go_forwards_and_backwards():
    assert paired.alternating("abc", 3) == [["a", "b", "c"], ["c", "b", "a"], ["a", "b", "c"]]


def test_the_flags_of_so_many_decays_are_distinct():
    assert side_by_side.averages_flags(0).split()[0] == "--no_ema"
    first, *decays, _ = side_by_side.averages_flags(8).split()
    assert first == "--ema_decay" and len(set(decays)) == 8


# ---------------------------------------------------------------------------------------------------------------
# The budget


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def fake_row(clock, title, takes, kind="one", expected=10, fails=None, deadlines=None):
    """Yields title/0 after half of `takes` seconds and title/1 after the other half; ends at its deadline."""

    def measure(deadline):
        if deadlines is not None:
            deadlines[title] = deadline - clock.now
        for part in range(2):
            if clock.now + takes / 2 > deadline:
                clock.now = deadline
                raise driver.CannotRunError("too slow")
            clock.now += takes / 2
            yield f"{title}/{part}", takes
        if fails:
            raise driver.CannotRunError(fails)

    return budget.Row(title, kind, expected, measure)


@pytest.fixture
def spend():
    """Runs rows within 100 seconds of a clock by hand: (names of what was kept, skipped, seconds)."""

    def spend(make):
        clock, kept = Clock(), []
        shared = budget.Budget(100, clock)
        skipped = shared.run(make(clock), lambda name, _: kept.append(name))
        return kept, skipped, clock.now - 1000

    return spend


def test_what_no_longer_fits_is_left_out_and_what_is_short_still_runs(spend):
    def rows(clock):
        yield fake_row(clock, "first", 30)
        yield fake_row(clock, "second", 30)
        yield fake_row(clock, "third", 30)
        yield fake_row(clock, "long", 30)  # one of its kind took 30
        yield fake_row(clock, "short", 8, kind="other")

    kept, skipped, seconds = spend(rows)
    assert kept == [f"{title}/{part}" for title in ("first", "second", "third", "short") for part in (0, 1)]
    assert skipped == {"long": "it takes about 30 s, and 10 s were left"}
    assert seconds == 98


def test_a_row_that_hangs_costs_a_third_of_the_budget_and_keeps_what_it_had(spend):
    kept, skipped, seconds = spend(lambda clock: [fake_row(clock, "slow", 50), fake_row(clock, "next", 2, kind="b")])
    assert kept == ["slow/0", "next/0", "next/1"]
    assert skipped == {"slow": "too slow"}
    assert seconds == pytest.approx(100 / 3 + 2)


def test_a_row_that_cannot_run_is_skipped_with_its_reason(spend):
    kept, skipped, _ = spend(lambda clock: [fake_row(clock, "a", 2, fails="no such kernel"), fake_row(clock, "b", 2)])
    assert kept == ["a/0", "a/1", "b/0", "b/1"]
    assert skipped == {"a": "no such kernel"}


def test_a_row_that_is_expected_to_take_long_may(spend):
    deadlines = {}
    long = lambda clock: fake_row(clock, "long", 60, expected=lambda: 60.0, deadlines=deadlines)  # noqa: E731
    kept, skipped, _ = spend(lambda clock: [long(clock)])
    assert (kept, skipped, deadlines) == (["long/0", "long/1"], {}, {"long": 90.0})


def test_no_deadline_is_beyond_the_budget(spend):
    deadlines = {}
    spend(lambda clock: [fake_row(clock, title, 28, deadlines=deadlines, expected=1, kind=title) for title in "abcd"])
    assert deadlines == pytest.approx({"a": 100 / 3, "b": 100 / 3, "c": 100 / 3, "d": 16})


# ---------------------------------------------------------------------------------------------------------------
# The rows of a GPU, with contestants that answer at once


class Fake:
    """A contestant whose steps take 10 ms for each 64 images, and 1% longer for each decay more."""

    def __init__(self, script, arguments):
        flags = dict(argument.removeprefix("--").split("=") for argument in arguments if "=" in argument)
        self.batch, self.closed, self.deadline = int(flags["batch_size"]), False, None
        decays = sum(argument.startswith("0.") for argument in arguments) or ("--no_ema" not in arguments)
        self.slower = 1 + 0.01 * decays * (script == "ours.py")
        library = "torch" if "torch" in script else "tensorflow"
        self.about = {
            "device": "GPU, NVIDIA H0",
            "precision": flags["precision"],
            "first_step_seconds": 3.0,
            library: "1",
        }

    def ask(self, command, *numbers):
        assert not self.closed
        if command == "batch":
            self.batch = numbers[0]
        steps = numbers[0] if command == "run" else 1
        return {"seconds": steps * 0.01 * self.batch / 64 * self.slower, "peak_bytes": 10**9, "device_bytes": 2 * 10**9}

    def close(self):
        self.closed = True


@pytest.fixture
def gpu_result():
    """Measures the rows of a GPU with fakes; `absent` are scripts that cannot run, `broken` flags that fail."""

    def measure(absent=(), broken=()):
        started = []

        def launch(script, *arguments, deadline):
            assert deadline > time.monotonic()
            for name in (*absent, *broken):
                if name == script or name in arguments:
                    raise driver.CannotRunError(f"{name} is absent")
            started.append(Fake(script, arguments))
            return started[-1]

        rows = {}
        with contextlib.ExitStack() as stack:
            in_order = gpu.Rows(gpu.SIZES, stack, launch).in_order()
            skipped = budget.Budget(10_000).run(in_order, rows.__setitem__)
        assert all(one.closed for one in started)
        return json.loads(
            json.dumps(
                {
                    "kind": "gpu",
                    "rehearsal": False,
                    "settings": gpu.SIZES._asdict(),
                    "machine": {"cpu": "a quick one", "cores": 4},
                    "versions": {"python": "3.11.7"},
                    "rows": rows,
                    "skipped": skipped,
                }
            )
        )

    return measure


def test_every_row_of_a_gpu_is_measured_and_shown(gpu_result):
    result = gpu_result()
    assert result["skipped"] == {}
    text = tables.text(result)
    header, speeds = gpu_tables.speeds(result)
    assert header[2:] == ["64", "256", "512", "1024", "2048"]
    assert {"train.py", "PyTorch", "PyTorch, compiled", "convolutions alone"} == {row[0] for row in speeds}
    assert speeds[0][2:] == ["6,337"] * 5  # one decay
    measured = {row[0]: row[1] for row in gpu_tables.targets(result)[1]}
    assert measured["train.py over PyTorch's best, batch 512"] == "0.99"
    assert measured["each extra decay adds"].startswith("0.99%")
    assert measured["EMA adds to the step"].startswith("1.0%")
    assert (
        measured["minutes of 200,000 steps of 64, extrapolated"] == measured["minutes of 200,000 steps of 64, measured"]
    )
    assert {f"images/s at batch 64, --steps_per_run {count}" for count in (1, 10, 100, 1000)} <= measured.keys()
    assert "images/s at batch 64, --xla off" in measured
    assert all(name in text for name in measured)


def test_without_pytorch_the_ceilings_come_through_tensorflow(gpu_result):
    result = gpu_result(absent=("pytorch.py", "torch_ceiling.py"))
    assert all(title.startswith("PyTorch") for title in result["skipped"])
    assert set(result["skipped"].values()) == {"pytorch.py is absent"}
    assert "tensorflow" in result["rows"]["ceiling-bfloat16-64"]["about"]
    assert tables.short_row(result)[3] == "-"
    assert "PyTorch's best" not in {row[0] for row in gpu_tables.targets(result)[1]}


def test_without_tensorflow_on_the_gpu_pytorch_is_measured_still(gpu_result):
    result = gpu_result(absent=("ours.py",))
    assert {"torch-compiled-bfloat16-64", "matrix-bfloat16"} <= result["rows"].keys()
    assert result["skipped"]["evaluation"] == "train.py does not run with batch 64"
    assert tables.text(result)


def test_where_xla_fails_all_else_is_measured_without_it(gpu_result):
    result = gpu_result(broken=("--xla=auto", "--xla=on"))
    assert result["skipped"] == {"train.py, batch 64, XLA the other way": "--xla=on is absent"}
    assert "evaluation" in result["rows"]


def test_what_the_machine_lacks_is_asked_for_once():
    asked = []

    def launch(script, *arguments, deadline):
        asked.append(script)
        raise driver.NotHereError(f"no GPU for {script}")

    with contextlib.ExitStack() as stack:
        skipped = budget.Budget(10_000).run(gpu.Rows(gpu.SIZES, stack, launch).in_order(), None)
    assert sorted(asked) == ["ceiling.py", "ours.py", "pytorch.py", "torch_ceiling.py"]
    assert skipped["train.py, batch 64, float32"] == "no GPU for ours.py"


def test_a_result_file_is_named_after_the_gpu(gpu_result):
    assert machine.slug(gpu_tables.device(gpu_result()).removeprefix("GPU, ")) == "nvidia-h0"


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
# Figures and tables


def contestant(title, *seconds, **about):
    about = {"device": "CPU, a quick one, 4 cores", "precision": "float32", "parameters": 1_998_068} | about
    return {"title": title, "about": about, "seconds": list(seconds), "peak_bytes": 2_000_000_000}


@pytest.fixture
def result():
    """A result by hand: 3 rounds of 10 steps of 64 images, the machine twice as slow in the second."""
    return {
        "kind": "cpu",
        "settings": {"rounds": 3, "steps": 10, "batch_size": 64, "train_size": 50_000, "test_size": 10_000},
        "machine": {"cpu": "a quick one", "features": ["avx2"], "cores": 4, "system": "Linux x86_64"},
        "versions": {"python": "3.11.7", "tensorflow": "2.21.0", "torch": "2.13.0"},
        "contestants": {
            "ours-float32": contestant("train.py, float32", 2.0, 4.0, 2.1),
            "ours-bfloat16": contestant("train.py, bfloat16", 3.0, 6.0, 3.0, precision="bfloat16"),
            "torch-float32": contestant("PyTorch, float32", 5.0, 10.0, 5.0),
            "torch-bfloat16": contestant("PyTorch, bfloat16", 2.4, 4.8, 2.4, precision="bfloat16"),
            "habit": contestant("TF 1.x habit", 3.0, 6.0, 3.0),
            "ceiling-float32": contestant("convolutions alone, float32", 1.7, 3.4, 1.7),
            "ceiling-bfloat16": contestant("convolutions alone, bfloat16", 1.9, 3.8, 1.9),
        },
        "averages": {
            "precision": "float32",
            "steps": 2,
            "seconds": {"0": [0.98, 1.96, 0.98], "1": [1.0, 2.0, 1.0], "2": [1.004, 2.008, 1.004]},
        },
        "skipped": {"PyTorch, compiled": "there is no C++ compiler"},
        "evaluation": [16.0, 15.0, 17.0],
        "startup": {
            "help": [0.2, 0.3, 0.4],
            "cifar10": [
                {"seconds": seconds, "parts": {"imports": 4.0, "data": 2.0}, "precision": "float32"}
                for seconds in (9.0, 8.5, 10.0)
            ],
        },
    }


def test_each_side_is_at_its_fastest_precision_and_ratios_are_within_a_round(result):
    assert figures.ours(result) == "ours-float32"
    assert figures.fastest(result, figures.PEERS) == "torch-bfloat16"
    assert figures.of_peer(result) == pytest.approx(1.2)
    assert figures.of_ceiling(result) == pytest.approx(0.85)
    assert figures.evaluation_share(result) == pytest.approx(16 / (50_000 / (640 / 2.1)))
    first, each = figures.averages_cost(figures.averages(result))
    assert (first.value, each.value) == pytest.approx((1 / 0.98 - 1, 0.004))


def test_a_verdict_follows_the_measured_value(result):
    verdicts = {row[0]: row[-1] for row in cpu_tables.targets(result)[1]}
    assert verdicts["train.py, float32 over PyTorch, bfloat16, each at its best"] == "yes"
    assert verdicts["train.py, float32 over the TF 1.x habit"] == "no"
    assert verdicts["seconds from the start to the first step done, CIFAR-10"] == "no"
    assert verdicts["each extra decay adds"] == "yes"


@pytest.mark.parametrize(("low", "high", "met"), [(0.1, 0.9, "yes"), (1.1, 2.0, "no"), (0.9, 1.1, "unsure")])
def test_an_estimate_meets_its_bound_with_its_whole_interval(low, high, met):
    assert layout.verdict(paired.Estimate((low + high) / 2, low, high), "<=", 1.0) == met


def test_what_was_not_measured_is_left_out(result):
    bare = copy.deepcopy(result) | {"evaluation": [], "startup": {}, "averages": None}
    bare["contestants"] = {"ours-float32": bare["contestants"]["ours-float32"]}
    assert [row[0] for row in cpu_tables.targets(bare)[1]] == ["peak memory of training and evaluation, GB"]
    del bare["contestants"]["ours-float32"]
    assert "a quick one, 4 cores" in tables.text(bare)


def test_text_is_aligned_and_says_what_was_left_out(result):
    heading, speeds, targets, parts, skipped = tables.text(result).split("\n\n")
    assert "1,998,068 parameters" in heading and "torch 2.13.0" in heading
    for table in (speeds, targets):
        assert len({len(line) for line in table.splitlines()}) == 1
    assert (
        parts
        == "Seconds of the parts of the start with CIFAR-10: imports 4.00, data 2.00. --precision auto took float32."
    )
    assert skipped == "PyTorch, compiled was left out: there is no C++ compiler"


def test_markdown_comes_from_the_json_alone(result, tmp_path, capsys):
    (tmp_path / "bench.json").write_text(json.dumps(result))
    bench.main(["--markdown", "--output", str(tmp_path / "bench.json")])
    printed = capsys.readouterr().out
    assert printed == tables.markdown(result) + "\n"
    assert "| train.py, float32 | float32 | 304.8 | 160.0 | 320.0 | 1.000 | 85.0% | 2.00 |" in printed
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_tables_are_written_between_the_marks_and_checked(result, tmp_path):
    readme, folder = tmp_path / "README.md", tmp_path / "bench"
    folder.mkdir()
    (folder / "some-avx2.json").write_text(json.dumps(result))
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    with pytest.raises(SystemExit, match="--write"):
        tables.main(["--check"], readme, folder)
    tables.main(["--write"], readme, folder)
    tables.main(["--check"], readme, folder)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "\nold\n" not in text
    assert "### some-avx2" in text and "| CPU, a quick one, 4 cores | 305 | 267 | 1.20 | 85.0% |" in text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="once each"):
        tables.main(["--write"], readme, folder)


def test_the_readme_is_made_from_the_results():
    tables.main(["--check"])


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
