"""curves.png and the style of figures."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.commands import ROOT

from analysis import plots

RGB = {"raw": (0x00, 0x72, 0xB2), "raw/recomputed": (0, 0, 0), "ema/0.9/recomputed": (0xD5, 0x5E, 0x00)}


def curves(path, accuracies, count=3):
    """Draws curves.png of constant {label: accuracy} and returns its pixels."""
    plots.draw_curves(path, [{"epoch": epoch, "classifiers": accuracies} for epoch in range(1, count + 1)])
    assert os.listdir(path) == ["curves.png"]
    with Image.open(path / "curves.png") as image:
        return np.array(image.convert("RGB"))


def height_of_curve(image, colour):
    """Returns the height from below of the longest horizontal stroke of a colour: a level curve, not the legend."""
    strokes = (abs(image.astype(int) - colour).sum(2) < 30).sum(1)
    assert strokes.max() > 150, "no such curve"
    return len(strokes) - strokes.argmax()


def test_curves_show_average_and_baseline(tmp_path):
    """Level curves are as far apart as their accuracies."""
    image = curves(tmp_path, dict(zip([*RGB, "ema/0.99/raw"], (0.5, 0.7, 0.8, 0.9), strict=True)))
    raw, baseline, average = (height_of_curve(image, colour) for colour in RGB.values())
    assert (average - baseline) / (baseline - raw) == pytest.approx(0.1 / 0.2, abs=0.03)
    assert image.shape[0] >= 400 and image.shape[1] >= 640


def test_curves_of_one_evaluation(tmp_path):
    assert curves(tmp_path, {"raw": 0.5, "ema/0.99/raw": 0.6}, 1).std() > 10


DRAW = """
import sys
from pathlib import Path
from analysis.plots import draw_curves
draw_curves(Path(sys.argv[1]), [{"epoch": 1, "classifiers": {"raw": 0.5, "ema/0.9/raw": 0.6}}])
"""
MATPLOTLIBRC = "text.usetex: True\nfont.size: 30\nbackend: QtAgg\nsavefig.dpi: 17\nfigure.facecolor: black\n"


def test_matplotlibrc_changes_nothing(tmp_path):
    (tmp_path / "matplotlibrc").write_text(MATPLOTLIBRC)
    settings = {"MATPLOTLIBRC": tmp_path / "matplotlibrc"}
    images = []
    for name, environment in (("with", settings), ("without", {})):
        (tmp_path / name).mkdir()
        command = [sys.executable, "-c", DRAW, tmp_path / name]
        result = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        images.append((tmp_path / name / "curves.png").read_bytes())
    assert images[0] == images[1]


def test_failed_figure_is_a_warning(caplog):
    assert plots.render_figure("a figure", lambda: 1 / 0, "png") is None
    (warning,) = caplog.records
    assert warning.levelname == "WARNING" and "a figure" in warning.message


def test_same_numbers_give_same_bytes():
    def draw():
        axes = plots.new_axes("x", "y")
        axes.plot([1, 2], [3, 4], label="curve")
        return plots.add_legend(axes)

    assert plots.render_figure("", draw, "png", "svg") == plots.render_figure("", draw, "png", "svg")
