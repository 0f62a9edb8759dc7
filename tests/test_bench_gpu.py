"""The benchmark of a GPU: its budget, and its rows with contestants that answer at once."""

import contextlib
import json
import sys
import time

import pytest
from support.commands import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import budget  # noqa: E402
import driver  # noqa: E402
import gpu  # noqa: E402
import gpu_tables  # noqa: E402
import machine  # noqa: E402
import tables  # noqa: E402

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
