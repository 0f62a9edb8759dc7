"""What the log says: gains split into their two causes, and nothing wider than a terminal."""

import math
import types

import pytest

from training import console
from training.labels import Label


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ({"raw": 0.5, "ema/0.9/raw": 0.6}, []),
        (
            {"raw": 0.5, "raw/recomputed": 0.55, "ema/0.9/recomputed": 0.7},
            [
                "ema/0.9/recomputed over raw: +20.00 points = +15.00 weights +5.00 batch statistics, "
                "by way of raw/recomputed"
            ],
        ),
        (
            {"raw": 0.5, "ema/0.9/raw": 0.6, "ema/0.9/averaged": 0.7},
            [
                "ema/0.9/averaged over raw: +20.00 points = +10.00 weights +10.00 batch statistics, "
                "by way of ema/0.9/raw"
            ],
        ),
    ],
)
def test_gains_are_split_into_weights_and_batch_statistics(accuracy, expected):
    assert console.split_gains(accuracy) == expected


DECAYS = ("0.9", "0.99", "0.998", "0.9995")
POLICIES = ("raw", "averaged", "recomputed")


def row_of(labels):
    accuracy = {str(label): 0.5 + index / 64 for index, label in enumerate(labels)}
    return {
        "epoch": 12,
        "step": 9372,
        "train_loss": 1.25,
        "train_accuracy": 0.625,
        "images_per_second": 123.4,
        "seconds": 4567.8,
        "classifiers": accuracy,
        "evaluation_seconds": dict.fromkeys(accuracy, 12.3),
    }


@pytest.mark.parametrize("decays", [1, 2, 4])
@pytest.mark.parametrize("policies", [1, 2, 3])
def test_an_evaluation_shows_every_accuracy_and_is_no_wider_than_the_terminal(decays, policies):
    labels = [Label("raw")] + [Label("raw", None, "recomputed")] * (policies == 3)
    labels += [Label("ema", decay, policy) for decay in DECAYS[:decays] for policy in POLICIES[:policies]]
    row, primary = row_of(labels), next(label for label in labels if label.weights == "ema")
    lines = console.evaluation(row, primary)
    assert all(len(line) <= console.WIDTH for line in lines)
    text = "\n".join(lines)
    for accuracy in row["classifiers"].values():
        assert f"{100 * accuracy:.2f}%" in text
    gain = row["classifiers"][str(primary)] - row["classifiers"]["raw"]
    assert f"{100 * gain:+.2f}" in text
    assert "9372" in text and "1.2500" in text

    summary = row | {"gain": gain, "baseline": "raw"}
    *costs, done = console.ending(summary, primary, "runs/x")
    assert all(len(line) <= console.WIDTH for line in costs if line.startswith(("seconds", " ")))
    assert done.startswith("done: raw 50.00%") and done.endswith("everything is in runs/x")
    assert f"{primary} {100 * row['classifiers'][str(primary)]:.2f}%" in done and f"{100 * gain:+.2f} over raw" in done


def test_the_ending_names_the_fair_baseline():
    primary = Label("ema", "0.9", "recomputed")
    row = row_of([Label("raw"), Label("raw", None, "recomputed"), primary])
    done = console.ending(row | {"gain": 1 / 64, "baseline": "raw/recomputed"}, primary, "x")[-1]
    assert "raw 50.00%, raw/recomputed 51.56%, ema/0.9/recomputed 53.12%, gain +1.56 over raw/recomputed" in done


def test_the_loss_of_a_minute_is_that_of_its_finite_steps(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    settings = types.SimpleNamespace(
        total_steps=90, epoch_steps=9, flags=types.SimpleNamespace(batch_size=1, epochs=10)
    )
    progress = console.Progress(settings, 0)
    clock[0] = 1.0
    progress.update(5, math.nan)
    assert "loss nan" in progress.line()
    progress.update(5, 2.0)
    assert "step 10 of 90: loss 2.0000" in progress.line()


def test_the_data_are_told_in_lines_of_their_own(monkeypatch):
    settings = types.SimpleNamespace(
        device=types.SimpleNamespace(description="CPU"),
        precision=types.SimpleNamespace(name="float32", reason=""),
        flags=types.SimpleNamespace(width=1.0, dropout=0.5, epochs=1, batch_size=64, ema_power=None),
        epoch_steps=9,
        total_steps=9,
        labels=[Label("raw")],
    )
    averages = types.SimpleNamespace(describe=lambda *_: [])
    graph = types.SimpleNamespace(var_class=[], averages=averages)
    lines = console.preamble(
        settings, "CIFAR-10 from x, 9 images; the last 5 are held out; 40% are wrong", graph, "runs/x"
    )
    at = lines.index("data       CIFAR-10 from x, 9 images")
    assert lines[at + 1 : at + 3] == ["           the last 5 are held out", "           40% are wrong"]


def told(monkeypatch, caplog, before, steps, losses, seconds):
    """The line that so many seconds for each of the losses, `steps` steps with each, come to."""
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    settings = types.SimpleNamespace(
        total_steps=1000, epoch_steps=100, flags=types.SimpleNamespace(batch_size=64, epochs=10)
    )
    caplog.set_level("INFO", "train")
    monkeypatch.setattr(console.log, "propagate", True)
    with console.Progress(settings, before) as progress:
        for loss in losses:
            clock[0] += seconds
            progress.update(steps, loss)
    (line,) = caplog.messages
    return line


def test_progress_is_a_line_of_the_log_a_minute_where_there_is_no_terminal(monkeypatch, caplog):
    line = told(monkeypatch, caplog, before=200, steps=50, losses=(2.0, 1.0, 0.5), seconds=30)
    for part in ("step 300 of 1000", "loss 1.5000", "106.7 images/s", "0:07:00 left"):
        assert part in line


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_progress_names_the_epoch_of_the_last_step_done(monkeypatch, caplog, step, epoch):
    line = told(monkeypatch, caplog, before=step - 1, steps=1, losses=(1.0,), seconds=60)
    assert line.startswith(f"epoch {epoch}, step {step} of 1000")
