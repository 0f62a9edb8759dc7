"""results/tables.py: what the blocks of the READMEs say of runs whose numbers are known."""

import json
import runpy

import numpy as np
import pytest
from support.commands import ROOT
from support.finished_runs import write_run

RAW, EMA = "raw/recomputed", "ema/0.998/recomputed"
OTHER = "ema/0.99/recomputed"
LABELS = ("raw", RAW, EMA, "ema/0.998/raw", OTHER, "ema/0.99/raw")


@pytest.fixture
def blocks(tmp_path):
    """The functions of results/tables.py, which finds its logs in the directory of the test."""
    names = runpy.run_path(str(ROOT / "results" / "tables.py"))["main"].__globals__
    names["RESULTS"] = tmp_path
    return names


def write(path, *argv, validation=None, **curves):
    """A run evaluated after epochs 4, 8, ...: accuracies by the names raw, ema and other; the rest is 0.5."""
    named = {RAW: curves["raw"], EMA: curves["ema"], OTHER: curves.get("other", curves["ema"])}
    length = len(curves["raw"])
    classifiers = {label: named.get(label, [0.5] * length) for label in LABELS}
    held_out = validation and {label: [value] * length for label, value in validation.items()}
    epochs = [4 * (index + 1) for index in range(length)]
    flags = ["--width", 0.5, *argv, "--epochs", epochs[-1]]
    return write_run(path, *flags, classifiers=classifiers, validation=held_out, epochs=epochs)


def cells(markdown):
    """The rows of a Markdown table, each a list of its cells."""
    return [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in markdown.splitlines()[2:]]


def test_of_three_seeds_the_interval_and_of_two_each(blocks):
    assert blocks["estimate"](np.array([1.0, 3.0]), "+") == "+2.00 (+1.00, +3.00)"
    assert blocks["estimate"](np.array([1.0, 2.0, 3.0])) == "2.00 [-0.48, 4.48]"  # t of 2 degrees: 4.303 / sqrt 3
    assert blocks["estimate"](np.array([1.5])) == "1.50"


def test_the_gain_over_the_images_of_one_run_is_that_of_matched_pairs(blocks):
    """40 images of 1,000 gained and 10 lost: 3 points; the variance of one image's difference is 0.05 - 0.03^2."""
    gain, half = blocks["paired_gain"](40, 10, images=1000)
    outcomes = np.repeat([1, -1, 0], [40, 10, 950])
    assert gain == pytest.approx(100 * outcomes.mean())
    assert half == pytest.approx(100 * 1.96 * outcomes.std() / 1000**0.5)


def test_only_seeds_that_both_experiments_have_are_compared(blocks, tmp_path):
    for seed in (0, 1, 2):
        write(tmp_path / "gain" / f"seed-{seed}", "--seed", seed, raw=[0.7, 0.7], ema=[0.7, 0.7 + seed / 10])
    for seed in (1, 2, 3):
        write(
            tmp_path / "cooldown" / f"seed-{seed}", "--seed", seed, "--lr_cooldown", 4, raw=[0.7, 0.8], ema=[0.7, 0.8]
        )
    runs, cooled = blocks["shared"]("gain", "cooldown")
    assert runs == {1: "gain/seed-1", 2: "gain/seed-2"} and cooled == {1: "cooldown/seed-1", 2: "cooldown/seed-2"}
    table = cells(blocks["annealing"]())
    assert [row[0] for row in table] == [
        f"{rate}, {label}" for rate in ("constant rate", "annealed") for label in (RAW, EMA)
    ]
    assert [float(row[1].split()[0]) for row in table] == [70, 85, 80, 80]
    assert table[2][2].startswith("+10.00") and table[2][3].startswith("-5.00") and table[0][2] == "-"


def test_experiments_that_share_no_seed_are_not_compared(blocks, tmp_path):
    write(tmp_path / "gain" / "seed-0", raw=[0.7], ema=[0.8])
    write(tmp_path / "noise" / "seed-1", "--seed", 1, raw=[0.7], ema=[0.8])
    with pytest.raises(ValueError, match="gain and noise share no seed"):
        blocks["noise"]()


def test_the_decay_is_chosen_on_the_images_held_out(blocks, tmp_path):
    """On the test images the other one is better, and at every epoch."""
    held_out = {RAW: 0.99, EMA: 0.7, OTHER: 0.8}
    for name, flags in (("gain", []), ("noise", ["--label_noise", 0.4])):
        write(tmp_path / name / "seed-0", *flags, raw=[0.6, 0.6], ema=[0.9, 0.9], other=[0.8, 0.7], validation=held_out)
    assert [row[3:] for row in cells(blocks["horizons"]())] == [
        ["`0.99`, 0.13 epochs", "80.00", "+20.00"],
        ["`0.99`, 0.13 epochs", "70.00", "+10.00"],
    ]
    for row in cells(blocks["noise"]()):
        assert row[1:] == ["60.00", "90.00", "+30.00", "`0.99`, 0.13 epochs", "70.00", "+10.00"]


def test_every_gain_is_over_the_raw_weights_with_the_same_statistics(blocks, tmp_path):
    write(tmp_path / "gain" / "seed-0", raw=[0.6], ema=[0.9], other=[0.75])
    assert cells(blocks["gain"]()) == [
        ["raw weights", "60.00", "-", "50.00", "-"],
        ["`0.99`, 0.13 epochs", "75.00", "+15.00", "50.00", "+0.00"],
        ["`0.998`, 0.64 epochs", "90.00", "+30.00", "50.00", "+0.00"],
    ]


def test_epochs_are_saved_only_where_they_are_by_every_seed(blocks, tmp_path):
    """Each against its own raw weights, and where a curve falls below them again later."""
    write(tmp_path / "gain" / "seed-0", raw=[0.5, 0.6, 0.7, 0.75], ema=[0.4, 0.76, 0.76, 0.74])
    write(tmp_path / "gain" / "seed-1", "--seed", 1, raw=[0.5, 0.6, 0.7, 0.8], ema=[0.4, 0.76, 0.81, 0.85])
    assert blocks["epoch_reached"](blocks["seeds"]("gain")) == 12
    assert blocks["epoch_reached"]({0: "gain/seed-0"}) == 8


def test_loss_and_calibration_are_paired_by_seed(blocks, tmp_path):
    for seed, (plain, ema) in enumerate([(0.4, 0.3), (0.5, 0.38), (0.6, 0.52)]):
        path = write(tmp_path / "gain" / f"seed-{seed}", "--seed", seed, raw=[0.7], ema=[0.8])
        rows = [{"label": RAW, "loss": plain, "ece": 0.02}, {"label": EMA, "loss": ema, "ece": 0.01}]
        (path / "table.json").write_text(json.dumps(rows))
    loss, calibration, churn = cells(blocks["beyond_accuracy"]("gain", [["churn", "1", "2", "3", "-"]]))
    assert loss == ["test loss, nats", "0.5000", "0.4000", "-0.1000", "[-0.1497, -0.0503]"]  # by hand: s = 0.02
    assert calibration == ["calibration error, %", "2.00", "1.00", "-1.00", "[-1.00, -1.00]"]
    assert churn == ["churn", "1", "2", "3", "-"]


def test_first_epochs_are_means_over_the_seeds_that_all_starts_have(blocks, tmp_path):
    """Each gain is over the raw weights of the same run: those of warmup's are 0.1 higher than those of the others."""
    averages = {"initial": (0.6, 0.7), "warmup": (0.8, 0.9), "unbiased": (0.75, 0.65)}
    for start, (with_raw, recomputed) in averages.items():
        for seed in (0, 1, 2) if start == "warmup" else (0, 1):
            more = seed / 100 + (0.1 if start == "warmup" else 0)
            curves = {"raw": [0.5 + more], RAW: [0.6 + more], "ema/0.998/raw": [with_raw], EMA: [recomputed]}
            write_run(tmp_path / "starts" / f"{start}-seed{seed}", "--seed", seed, classifiers=curves)
    assert cells(blocks["first_epochs"]()) == [
        ["`initial`", "60.00 (+9.50)", "70.00 (+9.50)"],
        ["`warmup`", "80.00 (+19.50)", "90.00 (+19.50)"],
        ["`unbiased`", "75.00 (+24.50)", "65.00 (+4.50)"],
    ]
    rows = cells(blocks["starts"]())
    assert len(rows) == 7 * 4
    assert [row[3] for row in rows if row[:3] == ["0", "warmup", f"`{RAW}`"]] == ["70.00"]
    assert [row[3] for row in rows if row[:3] == ["1", "initial", "`raw`"]] == ["51.00"]
