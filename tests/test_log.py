"""What the log says: gains split into their two causes, why an average is behind, and nothing wider than a terminal."""

import re
import types

import pytest
import tensorflow.compat.v1 as tf
from support.commands import TINY_RUN

import ema
from training import log
from training.labels import Label

DECAYS = ("0.998", "0.9", "0.99", "0.9995")
POLICIES = ("raw", "averaged", "recomputed")


def labels_of(decays, policies):
    labels = [Label("raw")] + [Label("raw", None, "recomputed")] * ("recomputed" in policies)
    return labels + [Label("ema", decay, policy) for decay in decays for policy in policies]


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


def test_gains_are_split_into_weights_and_batch_statistics():
    assert log.split_gains({"raw": 0.5, "ema/0.9/raw": 0.6}) == []
    (line,) = log.split_gains({"raw": 0.5, "raw/recomputed": 0.55, "ema/0.9/recomputed": 0.7})
    assert re.findall(r"[+-][0-9.]+", line) == ["+20.00", "+15.00", "+5.00"]
    (line,) = log.split_gains({"raw": 0.5, "ema/0.9/raw": 0.6, "ema/0.9/averaged": 0.72})
    assert re.findall(r"[+-][0-9.]+", line) == ["+22.00", "+10.00", "+12.00"]


@pytest.mark.parametrize("decays", [1, 2, 4])
@pytest.mark.parametrize("policies", [["raw"], ["recomputed"], ["raw", "averaged"], POLICIES], ids=" ".join)
def test_an_evaluation_shows_every_accuracy_in_80_columns(decays, policies):
    labels = labels_of(DECAYS[:decays], policies)
    row, primary = row_of(labels), next(label for label in labels if label.weights == "ema")
    lines = (
        [*log.header(labels), *log.evaluation(row, primary)]
        if not log.as_grid(labels)
        else log.evaluation(row, primary)
    )
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for accuracy in row["classifiers"].values():
        assert f"{100 * accuracy:.2f}%" in text
    gain = row["classifiers"][str(primary)] - row["classifiers"][str(primary.baseline)]
    assert f"{100 * gain:+.2f}" in text
    assert "9372" in text and "1.2500" in text
    assert "ema/" not in text  # labels are for files


def test_the_columns_of_a_line_stand_below_their_names():
    for labels in (labels_of(["0.998"], ["raw"]), labels_of(["0.998"], ["recomputed"])):
        *_, names = log.header(labels)
        (line,) = log.evaluation(row_of(labels), labels[-1])
        assert len(names) == len(line)
        ends = [match.end() for match in re.finditer(r"EMA 0.998|raw weights|\S+", names)]
        assert [match.end() for match in re.finditer(r"\S+", line)] == ends


def test_what_the_ending_says_adds_up_after_rounding(tmp_path):
    labels = labels_of(["0.9"], ["recomputed"])
    accuracy = {"raw": 0.4, "raw/recomputed": 100 / 299, "ema/0.9/recomputed": 123 / 299}
    summary = row_of(labels) | {"classifiers": accuracy, "gain": 23 / 299, "baseline": "raw/recomputed"}
    *lines, done = log.ending(summary, labels[-1], tmp_path / "a run")
    raw, averaged, gain = map(float, re.search(r"raw (\S+)%, EMA 0.9 (\S+)% \((\S+)\)", done).groups())
    assert round(averaged - raw, 2) == gain == 7.70  # 7.69 by itself
    assert str(tmp_path / "a run") in done
    text = "\n".join(lines)
    said = f"{text}\n{done}".replace(f"'{tmp_path}/a run'", str(tmp_path / "a run"))
    said = said.replace(str(tmp_path / "a run"), "runs/20260101-120000").splitlines()
    assert max(len(line) for line in said if "evaluate.py" not in line) <= 80
    assert "curves.png" in text
    for command in ("table", "export"):
        assert f"evaluate.py {command} --run_dir '{tmp_path}/a run'" in text


@pytest.mark.parametrize(
    ("start", "policy", "updates", "named"),
    [
        ("initial", "raw", 781, ["21%", "--ema_start warmup", "--ema_batch_stats recomputed"]),
        ("initial", "recomputed", 781, ["21%", "--ema_start warmup"]),
        ("warmup", "raw", 781, ["--ema_batch_stats recomputed"]),
        ("unbiased", "recomputed", 781, ["--ema_decay"]),
    ],
)
def test_an_average_that_is_behind_is_explained_with_the_flag_that_mends_it(start, policy, updates, named):
    with tf.Graph().as_default():
        share = ema.MovingAverages(["0.998"], start).initial_share("0.998", updates)
    accuracy = {"raw": 0.5, "raw/recomputed": 0.5, f"ema/0.998/{policy}": 0.4}
    text = log.explain_deficit(Label("ema", "0.998", policy), accuracy, share)
    assert max(map(len, text.splitlines())) <= 80
    for flag in ("21%", "--ema_start warmup", "--ema_batch_stats recomputed", "--ema_decay"):
        assert (flag in text) == (flag in named)


def test_an_average_is_not_blamed_for_what_the_run_has_or_shows():
    primary, accuracy = Label("ema", "0.9", "raw"), {"raw": 0.5, "raw/recomputed": 0.6, "ema/0.9/raw": 0.4}
    ahead = log.explain_deficit(primary, accuracy | {"ema/0.9/recomputed": 0.7}, 0.0)
    assert "raw network's" in ahead and "ahead" in ahead and "--ema_batch_stats" not in ahead
    behind = log.explain_deficit(primary, accuracy | {"ema/0.9/recomputed": 0.5}, 0.0)
    assert "--ema_decay" in behind and "--ema_batch_stats" not in behind
    assert log.explain_deficit(primary, accuracy | {"ema/0.9/raw": 0.5}, 0.5) is None


def test_the_ending_names_the_average_that_is_best_on_the_images_held_out(tmp_path):
    accuracy = {"raw": 0.5, "raw/recomputed": 0.6, "ema/0.9/raw": 0.4, "ema/0.9/recomputed": 0.65}
    validation = {"raw": 0.9, "raw/recomputed": 0.9, "ema/0.9/raw": 0.4, "ema/0.9/recomputed": 0.55}
    summary = row_of([]) | {"classifiers": accuracy, "validation": validation, "gain": -0.1, "baseline": "raw"}
    text = "\n".join(log.ending(summary, Label("ema", "0.9"), tmp_path))
    chosen = " ".join(text[text.index("chosen:") : text.index("curves:")].split())
    assert chosen.startswith("chosen: EMA 0.9, recomputed statistics, ")
    assert re.findall(r"[-+0-9.]+(?=%|\))", chosen) == ["55.00", "65.00", "+5.00"]


def test_the_log_of_a_run_explains_once_and_leads_on(forked, tmp_path):
    result = forked("train.py", *TINY_RUN, "--epochs", 3, "--run_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    behind = [line for line in result.stdout.splitlines() if "is behind" in line]
    gains = [float(line.split()[6]) for line in result.stdout.splitlines() if re.match(r" +\d+ +\d+ \d", line)]
    assert len(gains) == 3
    assert len(behind) == any(gain < 0 for gain in gains)
    assert max(map(len, (line for line in result.stdout.splitlines() if str(tmp_path) not in line))) <= 80


@pytest.mark.parametrize(
    ("seconds", "interval", "epochs", "fewer"),
    [(1.0, 1, 20, None), (5.0, 1, 20, 3), (5.0, 2, 20, 5), (50.0, 1, 20, 20), (5.0, 1, 2, 2), (50.0, 2, 2, None)],
)
def test_an_evaluation_that_costs_much_is_said_to_where_there_can_be_fewer(seconds, interval, epochs, fewer):
    text = log.cost(seconds, 10.0, interval, epochs)
    assert text is None if fewer is None else f"--eval_every {fewer} " in text


def test_the_data_are_described_in_lines_of_their_own():
    labels = labels_of(["0.998"], ["raw"])
    numbers = {"width": 1.0, "dropout": 0.5, "epochs": 1, "batch_size": 64, "snapshots": 0}
    words = {"device": types.SimpleNamespace(description="CPU"), "precision": "float32", "precision_reason": ""}
    settings = types.SimpleNamespace(epoch_steps=9, total_steps=9, labels=labels, **numbers, **words)
    graph = types.SimpleNamespace(var_class=[], averages=types.SimpleNamespace(describe=lambda *_: ["a text " * 20]))
    source = "CIFAR-10 from /a/path, 9 images; the last 5 are held out; 40% are wrong"
    lines = "\n".join(log.preamble(settings, source, graph, "runs/x")).splitlines()
    at = lines.index("data       CIFAR-10 from /a/path, 9 images")
    assert lines[at + 1 : at + 3] == ["           the last 5 are held out", "           40% are wrong"]
    assert max(map(len, lines)) <= 80


# ---------------------------------------------------------------------------------------------------------------
# Progress


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


def progress_line(before, steps, losses, seconds):
    """The line that so many seconds for each of the losses, `steps` steps with each, come to."""
    clock, said = Clock(), []
    settings = types.SimpleNamespace(total_steps=1000, epoch_steps=100, batch_size=64, epochs=10)
    with log.Progress(settings, before, clock=clock, say=said.append) as progress:
        for loss in losses:
            clock.now += seconds
            progress.update(steps, loss)
    (line,) = said
    return line


def test_progress_is_a_line_of_the_log_a_minute_where_there_is_no_terminal():
    line = progress_line(before=200, steps=50, losses=(2.0, 1.0, 0.5), seconds=30)
    for part in ("step 300 of 1000", "loss 1.5000", "106.7 images/s", "0:07:00 left"):
        assert part in line


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_progress_names_the_epoch_of_the_last_step_done(step, epoch):
    line = progress_line(before=step - 1, steps=1, losses=(1.0,), seconds=60)
    assert line.startswith(f"epoch {epoch}, step {step} of 1000")


def test_the_loss_of_a_minute_is_that_of_its_finite_steps():
    line = progress_line(before=0, steps=5, losses=(float("nan"), 2.0), seconds=30)
    assert "step 10 of 1000: loss 2.0000" in line


def test_a_long_evaluation_says_how_far_it_is():
    clock, said = Clock(), []
    settings = types.SimpleNamespace(total_steps=1000, epoch_steps=100, batch_size=64, epochs=10)
    with log.Progress(settings, 100, clock=clock, say=said.append) as progress:
        for number in range(1, 7):
            clock.now += 20
            progress.evaluating(number, 11)
    assert ["evaluating 3 of 11" in said[0], "evaluating 6 of 11" in said[1]] == [True, True] and len(said) == 2
