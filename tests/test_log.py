"""The log: numbers add up, flags are named, and no line is wider than a terminal."""

import re
import types

import pytest
import tensorflow.compat.v1 as tf
from support.commands import TINY_RUN, assert_success

import ema
from training import log
from training.labels import BATCH_STATS, Label

DECAYS = ("0.998", "0.9", "0.99", "0.9995")


def make_labels(decays, policies):
    labels = [Label("raw")] + [Label("raw", None, "recomputed")] * ("recomputed" in policies)
    return labels + [Label("ema", decay, policy) for decay in decays for policy in policies]


def make_row(labels):
    accuracy = {str(label): 0.5 + index / 64 for index, label in enumerate(labels)}
    numbers = {"train_loss": 1.25, "train_accuracy": 0.625, "images_per_second": 123.4, "seconds": 4567.8}
    return {"epoch": 12, "step": 9372, **numbers, "classifiers": accuracy}


def make_settings(**more):
    return types.SimpleNamespace(total_steps=1000, epoch_steps=100, batch_size=64, epochs=10, **more)


def width(lines):
    return max(map(len, lines))


def test_preamble_has_one_line_per_fact():
    words = {"device": types.SimpleNamespace(description="CPU"), "precision": "float32", "precision_reason": ""}
    settings = make_settings(labels=make_labels(["0.998"], ["raw"]), width=1.0, dropout=0.5, snapshots=0, **words)
    with tf.Graph().as_default():
        graph = types.SimpleNamespace(var_class=[tf.get_variable("v", [2, 3])], averages=ema.MovingAverages(["0.998"]))
    source = "CIFAR-10 from /a/path, 9 images; the last 5 are held out; 40% are wrong"
    lines = "\n".join(log.preamble(settings, source, graph, "runs/x")).splitlines()
    start = lines.index("data       CIFAR-10 from /a/path, 9 images")
    assert lines[start + 1 : start + 3] == ["           the last 5 are held out", "           40% are wrong"]
    assert any("6 parameters" in line for line in lines)
    assert width(lines) <= 80


@pytest.mark.parametrize(
    ("decays", "start", "steps", "named"),
    [
        (["0.998"], "initial", 15620, []),
        (["0.998"], "initial", 781, ["21%", "--ema_start warmup"]),
        (["0.998"], "unbiased", 781, []),
        (["0"], "warmup", 781, []),
        (["0.9998"], "warmup", 44_990, []),
        (["0.9998"], "warmup", 44_989, ["44,990"]),
        (["0.99", "0.998", "0.9995"], "warmup", 210, ["0.99, 0.998, 0.9995", "--ema_start unbiased"]),
        (["0.9", "0.998", "0.9995"], "warmup", 210, ["0.998, 0.9995", "--ema_start unbiased"]),
        (["0.9", "0.98"], "warmup", 84, ["step 80 of 84", "0.9, 0.98", "--ema_start unbiased"]),
        (["0.9", "0.98"], "warmup", 160, ["0.98", "step 440"]),  # 0.9 is limited for half of the run only
    ],
)
def test_unsuitable_decays_are_named(decays, start, steps, named):
    with tf.Graph().as_default():
        lines = log.describe(ema.MovingAverages(decays, start), steps, 781)
    for decay, line in zip(decays, lines, strict=False):
        horizon = 1 / (1 - float(decay))
        assert f"decay {decay}" in line and f"{horizon:.4g} steps" in line and f"{horizon / 781:.2g} epochs" in line
    more = lines[len(decays) :]
    assert len(more) == bool(named)
    assert all(part in more[0] for part in named)


@pytest.mark.parametrize("decays", [1, 2, 4])
@pytest.mark.parametrize("policies", [["raw"], ["recomputed"], ["raw", "averaged"], BATCH_STATS], ids=" ".join)
def test_evaluation_shows_every_accuracy(decays, policies):
    labels = make_labels(DECAYS[:decays], policies)
    row, primary = make_row(labels), next(label for label in labels if label.weights == "ema")
    lines = [*log.header(labels), *log.format_evaluation(row, primary)]
    assert width(lines) <= 80
    text = "\n".join(lines)
    for accuracy in row["classifiers"].values():
        assert f"{100 * accuracy:.2f}%" in text
    gain = row["classifiers"][str(primary)] - row["classifiers"][str(primary.baseline)]
    assert f"{100 * gain:+.2f}" in text
    assert "9372" in text and "1.2500" in text and "ema/" not in text


@pytest.mark.parametrize("policy", ["raw", "recomputed"])
def test_columns_are_aligned(policy):
    labels = make_labels(["0.998"], [policy])
    *_, names = log.header(labels)
    (line,) = log.format_evaluation(make_row(labels), labels[-1])
    name_ends = [match.end() for match in re.finditer(r"EMA 0.998|raw weights|\S+", names)]
    assert [match.end() for match in re.finditer(r"\S+", line)] == name_ends


def test_gains_are_split():
    assert log.split_gains({"raw": 0.5, "ema/0.9/raw": 0.6}) == []
    (line,) = log.split_gains({"raw": 0.5, "raw/recomputed": 0.55, "ema/0.9/recomputed": 0.7})
    assert re.findall(r"[+-][0-9.]+", line) == ["+20.00", "+15.00", "+5.00"]
    (line,) = log.split_gains({"raw": 0.5, "ema/0.9/raw": 0.6, "ema/0.9/averaged": 0.72})
    assert re.findall(r"[+-][0-9.]+", line) == ["+22.00", "+10.00", "+12.00"]


@pytest.mark.parametrize(
    ("share", "policy", "named"),
    [
        (0.21, "raw", {"21%", "--ema_start warmup", "--ema_batch_stats recomputed"}),
        (0.21, "recomputed", {"21%", "--ema_start warmup"}),
        (0.0, "raw", {"--ema_batch_stats recomputed"}),
        (0.0, "recomputed", {"--ema_decay"}),
    ],
)
def test_deficit_names_helpful_flag(share, policy, named):
    accuracy = {"raw": 0.5, "raw/recomputed": 0.5, f"ema/0.998/{policy}": 0.4}
    text = log.explain_deficit(Label("ema", "0.998", policy), accuracy, share)
    assert width(text.splitlines()) <= 80
    text = " ".join(text.split())
    flags = {"21%", "--ema_start warmup", "--ema_batch_stats recomputed", "--ema_decay"}
    assert {flag for flag in flags if flag in text} == named


def test_deficit_considers_other_averages():
    primary, accuracy = Label("ema", "0.9", "raw"), {"raw": 0.5, "raw/recomputed": 0.6, "ema/0.9/raw": 0.4}
    ahead = log.explain_deficit(primary, accuracy | {"ema/0.9/recomputed": 0.7}, 0.0)
    assert "ahead" in ahead and "--ema_batch_stats" not in ahead
    behind = log.explain_deficit(primary, accuracy | {"ema/0.9/recomputed": 0.5}, 0.0)
    assert "--ema_decay" in behind and "--ema_batch_stats" not in behind
    assert log.explain_deficit(primary, accuracy | {"ema/0.9/raw": 0.5}, 0.5) is None


@pytest.mark.parametrize(
    ("seconds", "interval", "epochs", "fewer"),
    [(1.0, 1, 20, None), (5.0, 1, 20, 3), (5.0, 2, 20, 5), (50.0, 1, 20, 20), (5.0, 1, 2, 2), (50.0, 2, 2, None)],
)
def test_costly_evaluation_names_interval(seconds, interval, epochs, fewer):
    text = log.eval_cost_hint(seconds, 10.0, interval, epochs)
    assert text is None if fewer is None else f"--eval_every {fewer} " in text


def test_final_gain_adds_up(tmp_path):
    labels = make_labels(["0.9"], ["recomputed"])
    summary = make_row(labels) | {
        "classifiers": {"raw": 0.4, "raw/recomputed": 100 / 299, "ema/0.9/recomputed": 123 / 299}
    }
    *lines, done = log.final_lines(summary, labels[-1], tmp_path / "a run")
    raw, averaged, gain = map(float, re.search(r"raw (\S+)%, EMA 0.9 (\S+)% \((\S+)\)", done).groups())
    assert round(averaged - raw, 2) == gain == 7.70  # unrounded accuracies would give 7.69
    assert str(tmp_path / "a run") in done
    text = "\n".join(lines)
    assert "curves.png" in text
    for command in ("table", "export"):
        assert f"evaluate.py {command} --run_dir '{tmp_path}/a run'" in text
    assert width(line for line in text.splitlines() if str(tmp_path) not in line) <= 80


def test_final_lines_name_choice(tmp_path):
    accuracy = {"raw": 0.5, "raw/recomputed": 0.6, "ema/0.9/raw": 0.4, "ema/0.9/recomputed": 0.65}
    validation = {"raw": 0.9, "raw/recomputed": 0.9, "ema/0.9/raw": 0.4, "ema/0.9/recomputed": 0.55}
    summary = make_row([]) | {"classifiers": accuracy, "validation": validation}
    text = "\n".join(log.final_lines(summary, Label("ema", "0.9"), tmp_path))
    chosen = " ".join(text[text.index("chosen:") : text.index("curves:")].split())
    assert chosen.startswith("chosen: EMA 0.9, recomputed statistics, ")
    assert re.findall(r"[-+0-9.]+(?=%|\))", chosen) == ["55.00", "65.00", "+5.00"]


def test_run_explains_deficit_once(forked, tmp_path):
    result = forked("train.py", *TINY_RUN, "--epochs", 3, "--run_dir", tmp_path / "run")
    assert_success(result)
    lines = result.stdout.splitlines()
    gains = [float(line.split()[6]) for line in lines if re.match(r" +\d+ +\d+ \d", line)]
    assert len(gains) == 3
    assert sum("is behind" in line for line in lines) == any(gain < 0 for gain in gains)
    assert width(line for line in lines if str(tmp_path) not in line) <= 80


class Clock:
    """A clock for tests; `seconds` is the time."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


def progress_lines(step, calls, interval):
    """Returns the progress lines of a run at `step` that makes each call, (method, arguments), after `interval` s."""
    clock, lines = Clock(), []
    with log.ProgressBar(make_settings(), step, clock=clock, write=lines.append) as progress:
        for method, *arguments in calls:
            clock.seconds += interval
            getattr(progress, method)(*arguments)
    return lines


def test_progress_line_every_minute():
    (line,) = progress_lines(200, [("update", 50, loss) for loss in (2.0, 1.0, 0.5)], 30)
    for part in ("step 300 of 1000", "loss 1.5000", "106.7 images/s", "0:07:00 left"):
        assert part in line


@pytest.mark.parametrize(("step", "epoch"), [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_progress_names_epoch(step, epoch):
    (line,) = progress_lines(step - 1, [("update", 1, 1.0)], 60)
    assert line.startswith(f"epoch {epoch}, step {step} of 1000")


def test_progress_ignores_skipped_steps():
    (line,) = progress_lines(0, [("update", 5, float("nan")), ("update", 5, 2.0)], 30)
    assert "step 10 of 1000: loss 2.0000" in line


def test_progress_of_long_evaluation():
    lines = progress_lines(100, [("evaluating", number, 11) for number in range(1, 7)], 20)
    assert ["evaluating 3 of 11" in lines[0], "evaluating 6 of 11" in lines[1], len(lines)] == [True, True, 2]
