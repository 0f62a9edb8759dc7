"""What a benchmark's samples come to: small differences, figures, and tables that come from the JSON alone."""

import copy
import json
import sys

import numpy as np
import pytest
from support.commands import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench  # noqa: E402 - found through the line above
import cpu_tables  # noqa: E402
import figures  # noqa: E402
import layout  # noqa: E402
import paired  # noqa: E402
import side_by_side  # noqa: E402
import tables  # noqa: E402

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
