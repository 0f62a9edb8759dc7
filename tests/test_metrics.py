"""metrics.jsonl, the TensorBoard events and the curves: what other programs read while a run goes on."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.commands import ROOT
from support.files import read_rows, scalars
from tensorboard.backend.event_processing import event_multiplexer

from analysis import plots
from analysis.plots import draw_curves
from training.metrics import Records


def row(step, raw=0.25, ema=0.5):
    classifiers = {"raw": raw, "ema/0.9/raw": ema}
    accuracies = {"raw_accuracy": raw, "ema_accuracy": ema, "classifiers": classifiers}
    return {"epoch": step // 10, "step": step, "train_loss": 2.0, "train_accuracy": 0.125, **accuracies}


def test_records_of_a_new_run_are_empty(tmp_path):
    Records(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_appended_rows_are_read_back(tmp_path):
    records = Records(tmp_path)
    rows = [row(10, 1 / 3, 2 / 3), row(20)]
    for each in rows:
        records.append(each)
        assert read_rows(tmp_path)[-1] == each  # on the disk at once
    assert read_rows(tmp_path) == records.rows == rows


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content + b'{"epoch": 3',
        lambda content: content[:-1],
        lambda content: content.replace(b"epoch", b"\xff\xfe"),
        lambda content: b"",
    ],
    ids=["torn", "no newline", "rotten", "empty"],
)
def test_continued_records_are_those_of_the_checkpoint_whatever_the_file_holds(tmp_path, damage):
    first = Records(tmp_path)
    for step in (10, 20, 30):
        first.append(row(step))
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(damage(file.read_bytes()))
    continued = Records(tmp_path, [row(10), row(20)])
    assert read_rows(tmp_path) == [row(10), row(20)]
    continued.append(row(30, ema=0.75))
    assert read_rows(tmp_path) == [row(10), row(20), row(30, ema=0.75)]


def test_tensorboard_has_every_classifier_under_one_tag_and_the_training_apart(tmp_path):
    records = Records(tmp_path)
    records.append(row(10, raw=0.25, ema=0.5))
    records.append(row(20, raw=0.375, ema=0.625))
    shown = scalars(tmp_path)
    assert {curve: shown[curve] for curve in ("raw", "0.9")} == {
        "raw": {"test_accuracy": [(10, 0.25), (20, 0.375)]},
        "0.9": {"test_accuracy": [(10, 0.5), (20, 0.625)]},
    }
    (training,) = shown.keys() - {"raw", "0.9"}
    assert shown[training]["train_loss"] == [(10, 2.0), (20, 2.0)]
    assert shown[training]["train_accuracy"] == [(10, 0.125), (20, 0.125)]


def test_tensorboard_has_the_images_held_out_too(tmp_path):
    records = Records(tmp_path)
    records.append(row(10) | {"validation": {"raw": 0.75, "ema/0.9/raw": 0.875}})
    shown = scalars(tmp_path)
    assert shown["raw"] == {"test_accuracy": [(10, 0.25)], "validation_accuracy": [(10, 0.75)]}
    assert shown["0.9"] == {"test_accuracy": [(10, 0.5)], "validation_accuracy": [(10, 0.875)]}


def test_tensorboard_has_each_step_once_after_a_resumption(tmp_path):
    before = Records(tmp_path)
    for step in (10, 20, 30):
        before.append(row(step))
    (tmp_path / "tensorboard" / "notes.txt").touch()  # the person's own
    continued = Records(tmp_path, [row(10), row(20)])
    continued.append(row(30, raw=0.75))
    assert (tmp_path / "tensorboard" / "notes.txt").exists()
    assert scalars(tmp_path)["raw"]["test_accuracy"] == [(10, 0.25), (20, 0.25), (30, 0.75)]
    files = list(tmp_path.rglob("events.out.tfevents.*"))
    assert len(files) == len({file.parent for file in files}) == 3


def test_tensorboards_own_reader_finds_every_curve(tmp_path):
    records = Records(tmp_path)
    for step in (10, 20):
        records.append(row(step) | {"train_accuracy": 0.5, "images_per_second": 200.0})
    multiplexer = event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "tensorboard")).Reload()
    tags = {run: set(found["scalars"]) for run, found in multiplexer.Runs().items()}
    assert tags == {
        "raw": {"test_accuracy"},
        "0.9": {"test_accuracy"},
        "train": {"train_loss", "train_accuracy", "images_per_second"},
    }
    assert [(event.step, event.value) for event in multiplexer.Scalars("raw", "test_accuracy")] == [
        (step, row(step)["classifiers"]["raw"]) for step in (10, 20)
    ]


# ---------------------------------------------------------------------------------------------------------------
# Figures


def drawn(path, rows):
    draw_curves(path, rows)
    assert os.listdir(path) == ["curves.png"]
    with Image.open(path / "curves.png") as image:
        return np.array(image.convert("RGB"))


RGB = {"raw": (0x00, 0x72, 0xB2), "raw/recomputed": (0, 0, 0), "average": (0xD5, 0x5E, 0x00)}


def rows_of(count=3, **accuracies):
    """Rows whose classifiers have these accuracies after every epoch; names stand for labels with slashes."""
    names = {"raw": "raw", "fair": "raw/recomputed", "ema": "ema/0.9/recomputed", "other": "ema/0.99/raw"}
    return [
        {"epoch": epoch, "classifiers": {names[name]: value for name, value in accuracies.items()}}
        for epoch in range(1, count + 1)
    ]


def height_of_curve(image, colour):
    """The height, from below, of the longest horizontal stroke of a colour: a level curve, which legends are not."""
    strokes = (abs(image.astype(int) - colour).sum(2) < 30).sum(1)
    assert strokes.max() > 150, "no such curve"
    return len(strokes) - strokes.argmax()


def test_curves_show_the_gain_that_counts(tmp_path):
    """Raw weights, the fair baseline and the primary average: level curves stand as far apart as their accuracies."""
    image = drawn(tmp_path, rows_of(raw=0.5, fair=0.7, ema=0.8, other=0.9))
    raw, fair, average = (height_of_curve(image, colour) for colour in RGB.values())
    assert (average - fair) / (fair - raw) == pytest.approx(0.1 / 0.2, abs=0.03)
    assert image.shape[0] >= 400 and image.shape[1] >= 640


def test_curves_of_one_evaluation_without_a_baseline_of_its_own(tmp_path):
    assert drawn(tmp_path, rows_of(1, raw=0.5, other=0.6)).std() > 10


DRAW = """
import sys
from pathlib import Path
from training.metrics import draw_curves
draw_curves(Path(sys.argv[1]), [{"epoch": 1, "classifiers": {"raw": 0.5, "ema/0.9/raw": 0.6}}])
"""


@pytest.mark.parametrize(
    "surroundings",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "nonsense"},
        {"MPLBACKEND": "TkAgg", "DISPLAY": ":99"},
        {"MATPLOTLIBRC": "text.usetex: True"},
        {"MATPLOTLIBRC": "font.size: 30\nbackend: QtAgg\nsavefig.format: pdf\nsavefig.dpi: 17\nno such key: 1"},
        {"MATPLOTLIBRC": "axes.prop_cycle: cycler('color', ['red'])\nsavefig.bbox: tight\nfigure.facecolor: black"},
        {"MPLCONFIGDIR": "/proc/nowhere"},
    ],
    ids=lambda surroundings: " ".join(surroundings.values()).split()[0],
)
def test_what_the_user_has_of_matplotlib_changes_nothing(tmp_path, surroundings):
    def curves(name, surroundings):
        (tmp_path / name).mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **surroundings}
        command = [sys.executable, "-c", DRAW, tmp_path / name]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        return (tmp_path / name / "curves.png").read_bytes()

    if "MATPLOTLIBRC" in surroundings:
        (tmp_path / "matplotlibrc").write_text(surroundings["MATPLOTLIBRC"])
        surroundings = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}
    assert curves("with", surroundings) == curves("without", {})


def test_a_figure_that_cannot_be_drawn_is_a_warning(tmp_path, caplog):
    assert plots.render_figure("a figure", lambda: 1 / 0, "png") is None
    (warning,) = caplog.records
    assert warning.levelname == "WARNING" and "a figure" in warning.message


def test_the_same_numbers_give_the_same_bytes():
    def draw():
        axes = plots.new_axes("x", "y")
        axes.plot([1, 2], [3, 4], label="curve")
        return plots.add_legend(axes)

    assert plots.render_figure("", draw, "png", "svg") == plots.render_figure("", draw, "png", "svg")


def test_events_do_not_make_a_run_that_was_taken_away_again(tmp_path):
    with pytest.raises(FileNotFoundError):
        Events(tmp_path / "run" / "tensorboard" / "raw")
    assert not (tmp_path / "run").exists()
