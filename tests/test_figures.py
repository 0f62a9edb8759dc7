"""Figures of the report: the numbers they draw, how seeds are shown, and the star."""

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import scipy.stats
from PIL import Image
from support.finished_runs import STEPS, constant, groups_of, write_run, write_seeds

from analysis import figures
from analysis.formatting import display_name

DECAYS = ("0.9", "0.99", "0.9995")


def bold(axes):
    return [line for line in axes.lines if line.get_linewidth() == 2]


@pytest.mark.parametrize("seeds", [1, 2, 4, 5])
def test_epoch_curves_over_seeds(random, seeds):
    values = random.uniform(50, 90, (2, seeds, 3))
    axes = figures.epoch_axes("", [("", ("black", "-"), [1, 2, 3], curve / 100) for curve in values])
    np.testing.assert_allclose([line.get_ydata() for line in bold(axes)], values.mean(1))
    thin = [line.get_ydata() for line in axes.lines if line.get_linewidth() < 1]
    np.testing.assert_allclose(thin, values.reshape(-1, 3))
    assert axes.get_ylim()[0] < values.min() < values.max() < axes.get_ylim()[1]
    assert len(axes.collections) == (2 if seeds == 5 else 0)
    for curve, band in zip(values, axes.collections, strict=seeds == 5):
        low, high = scipy.stats.ttest_1samp(curve, 0, axis=0).confidence_interval(0.95)
        heights = band.get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [low.min(), high.max()])


def test_accuracy_and_gain_curves(tmp_path):
    accuracies = {"raw": [0.5, 0.6], "raw/recomputed": [0.6, 0.7], "ema/0.9/recomputed": [0.55, 0.78]}
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=accuracies))
    lines = bold(figures.accuracy_axes(group))
    for line, (label, values) in zip(lines, accuracies.items(), strict=True):
        assert line.get_label().startswith(display_name(label))
        np.testing.assert_allclose(line.get_ydata(), 100 * np.array(values))
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 3
    axes = figures.gain_axes(group)
    (gain,) = bold(axes)
    np.testing.assert_allclose(gain.get_ydata(), [-5, 8])
    assert display_name("raw/recomputed") in gain.get_label()
    assert axes.get_ylim()[0] < -5 and [0, 0] in [list(line.get_ydata()) for line in axes.lines]


def test_figures_are_png_and_svg(tmp_path):
    (group,) = groups_of(several(tmp_path, 2))
    drawings = figures.draw_group(group, "2-")
    assert [figure.name for figure in drawings] == ["2-accuracy", "2-gain", "2-horizon"]
    for figure in drawings:
        assert np.array(Image.open(io.BytesIO(figure.png))).std() > 1
        assert ElementTree.fromstring(figure.svg).tag.endswith("svg")


def test_one_decay_has_no_horizon(tmp_path):
    (group,) = groups_of(write_run(tmp_path / "run"))
    assert [figure.name for figure in figures.draw_group(group)] == ["accuracy", "gain"]
    assert figures.render("name", "caption", lambda: 1 / 0) == []


def several(tmp_path, seeds):
    """Runs with three decays and two policies."""
    random = np.random.default_rng(seeds)
    labels = ["raw", "raw/recomputed"]
    labels += [f"ema/{decay}/{policy}" for decay in DECAYS for policy in ("recomputed", "raw")]
    return write_seeds(tmp_path / "seeds", {label: random.uniform(0.5, 0.9, (seeds, 2)) for label in labels})


def test_horizon_has_a_curve_per_policy(tmp_path):
    (group,) = groups_of(several(tmp_path, 1))
    axes = figures.horizon_axes(group)
    lines = {line.get_label(): line for line in axes.lines}
    for label in ("raw", "raw/recomputed"):
        np.testing.assert_allclose(lines[display_name(label)].get_ydata(), 100 * group.final[label].repeat(2))
    assert len(axes.containers) == 2
    for policy, container in zip(("recomputed", "raw"), axes.containers, strict=True):
        curve = container.lines[0]
        expected = [100 * group.final[f"ema/{decay}/{policy}"][0] for decay in DECAYS]
        np.testing.assert_allclose(curve.get_ydata(), expected)
        x = curve.get_xdata(orig=False)
        np.testing.assert_allclose(x, np.array([10, 100, 2000]) / STEPS, rtol=0.07)  # curves are shifted apart
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.0128", "0.128", "2.56"]
    (above,) = axes.child_axes
    assert [tick.get_text() for tick in above.get_xticklabels()] == list(DECAYS)


def test_horizon_bars_from_five_seeds(tmp_path):
    (group,) = groups_of(several(tmp_path / "few", 3))
    axes = figures.horizon_axes(group)
    assert not any(container.has_yerr for container in axes.containers)
    small = [line for line in axes.lines if line.get_markersize() == 3 and line.get_linestyle() == "None"]
    assert len(small) == 2 * 3  # policies by seeds
    middle = 100 * group.final["ema/0.99/recomputed"]
    np.testing.assert_allclose([line.get_ydata()[1] for line in small[:3]], middle)

    (group,) = groups_of(several(tmp_path / "many", 5))
    (bars,) = figures.horizon_axes(group).containers[0].lines[2]
    interval = scipy.stats.ttest_1samp(100 * group.final["ema/0.99/recomputed"], 0).confidence_interval(0.95)
    np.testing.assert_allclose(bars.get_segments()[1][:, 1], list(interval))


def test_star_marks_the_chosen_average(tmp_path):
    labels = ["raw", "ema/0.9/recomputed", "ema/0.99/recomputed", "ema/0.9/raw", "ema/0.99/raw"]
    test, validation = (
        constant(dict(zip(labels, values, strict=True)))
        for values in ((0.5, 0.9, 0.7, 0.6, 0.8), (0.95, 0.6, 0.5, 0.5, 0.7))
    )
    (group,) = groups_of(write_run(tmp_path / "run", "--validation_size", 9, classifiers=test, validation=validation))
    (star,) = [line for line in figures.horizon_axes(group).lines if line.get_marker() == "*"]
    np.testing.assert_allclose(star.get_ydata(), [80])
    np.testing.assert_allclose(star.get_xdata(), [100 / STEPS], rtol=0.07)
    assert display_name("ema/0.99/raw") in star.get_label()
    assert display_name("ema/0.99/raw") in figures.draw_group(group)[-1].caption
