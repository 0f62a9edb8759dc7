"""The figures: which numbers they draw, how seeds are shown, what is marked, and the files."""

import xml.etree.ElementTree as ElementTree

import matplotlib.image
import numpy as np
import pytest
import scipy.stats
from support.finished_runs import STEPS, groups_of, level, write_run, write_seeds

from analysis import figures, horizons

SEVERAL = {"raw": 0.75, "ema/0.9/raw": 0.7, "ema/0.998/raw": 0.78, "ema/0.9995/raw": 0.6}


def bold(axes):
    return [line for line in axes.lines if line.get_linewidth() == 2]


def test_from_five_seeds_on_the_curves_are_the_means_and_bands_over_seeds(random):
    curves = {"raw": random.uniform(50, 90, (5, 3)), "ema/0.9/raw": random.uniform(50, 90, (5, 3))}
    axes = figures.accuracy_figure([1, 2, 3], curves).axes[0]
    means = [curve.mean(0) for curve in curves.values()]
    np.testing.assert_allclose([line.get_ydata() for line in bold(axes)], means)
    assert len(axes.collections) == 2
    for curve, band in zip(curves.values(), axes.collections, strict=True):
        low, high = scipy.stats.ttest_1samp(curve, 0, axis=0).confidence_interval(0.95)
        heights = band.get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([heights.min(), heights.max()], [low.min(), high.max()])
    assert len(axes.lines) == 2 + 2 * 5  # and each seed
    assert "band: 95% t-interval" in figures.how_seeds_are_drawn(5)


@pytest.mark.parametrize("seeds", [2, 4])
def test_below_five_seeds_each_is_a_thin_line_and_there_is_no_band(random, seeds):
    values = random.uniform(50, 90, (seeds, 3))
    axes = figures.accuracy_figure([1, 2, 3], {"raw": values}).axes[0]
    assert not axes.collections
    (mean,) = bold(axes)
    np.testing.assert_allclose(mean.get_ydata(), values.mean(0))
    thin = [line.get_ydata() for line in axes.lines if line.get_linewidth() < 1]
    np.testing.assert_array_equal(thin, values)
    words = figures.how_seeds_are_drawn(seeds)
    assert "thin: each seed" in words and "no intervals of fewer than 5 seeds" in words and "band" not in words


def test_a_single_seed_is_drawn_without_a_band_and_zero_is_in_the_picture():
    axes = figures.gain_figure([1, 2], np.array([[3.0, 4.0]]), "ema/0.9/raw", "raw").axes[0]
    assert not axes.collections and len(axes.lines) == 2
    assert axes.get_ylim()[0] < 0 < 4 < axes.get_ylim()[1]
    assert figures.how_seeds_are_drawn(1) == ""


def drawn(group, tmp_path, monkeypatch):
    """The figures that `draw` saves, by name, and their captions."""
    kept = {}
    save = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, *rest: kept.update({rest[1]: figure}) or save(figure, *rest))
    captions = {name: caption for name, (caption, _) in figures.draw(group, tmp_path, "").items()}
    return kept, captions


RECOMPUTED = {
    "raw": [0.5, 0.6], "raw/recomputed": [0.6, 0.7], "ema/0.9/recomputed": [0.55, 0.78], "ema/0.9/raw": [0.1, 0.2],
}  # fmt: skip


def test_the_baseline_is_drawn_beside_raw_and_the_gain_is_over_it(tmp_path, monkeypatch):
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=RECOMPUTED))
    kept, captions = drawn(group, tmp_path, monkeypatch)
    axes = kept["accuracy"].axes[0]
    labels = [line.get_label().split(",")[0] for line in bold(axes)]
    assert labels == ["raw", "raw/recomputed", "ema/0.9/recomputed"]
    np.testing.assert_allclose([line.get_ydata() for line in bold(axes)], [[50, 60], [60, 70], [55, 78]])
    assert len({(line.get_color(), line.get_linestyle()) for line in bold(axes)}) == 3
    (gain,) = bold(kept["gain"].axes[0])
    np.testing.assert_allclose(gain.get_ydata(), [-5, 8])
    assert "over raw/recomputed" in kept["gain"].axes[0].get_ylabel()
    assert "Gain of ema/0.9/recomputed over raw/recomputed, its baseline" in captions["gain"]


def test_where_raw_is_the_baseline_it_is_drawn_once(tmp_path, monkeypatch):
    (group,) = groups_of(write_run(tmp_path / "run"))
    kept, captions = drawn(group, tmp_path, monkeypatch)
    assert len(bold(kept["accuracy"].axes[0])) == 2
    assert captions["accuracy"] == "Test accuracy of raw, ema/0.998/raw over epochs."
    assert "over raw, its baseline" in captions["gain"]


def test_every_figure_is_written_as_png_and_svg(tmp_path):
    write_run(tmp_path / "a", classifiers=level(SEVERAL))
    write_run(tmp_path / "b", "--seed", 1, classifiers=level(SEVERAL))
    (group,) = groups_of(tmp_path / "a", tmp_path / "b")
    made = figures.draw(group, tmp_path, "2-")
    assert list(made) == ["accuracy", "gain", "horizon"]
    for name, (_, svg) in made.items():
        image = matplotlib.image.imread(tmp_path / f"2-{name}.png")
        assert image.shape[1] >= 800 and image.std() > 0.01
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert (tmp_path / f"2-{name}.svg").read_text() == svg


# ---------------------------------------------------------------------------------------------------------------
# Accuracy against horizon


def test_decays_are_drawn_where_there_are_several():
    one, many = {"raw": 1, "ema/0.998/raw": 2}, {"raw": 1, "ema/0.9/raw": 2, "ema/0.99/raw": 3, "ema/power/raw": 4}
    assert horizons.decays(one) == {}
    assert horizons.decays(many) == {"raw": {"0.9": 2, "0.99": 3}}


def test_the_guides_horizon_is_about_two_thirds_of_an_epoch():
    assert horizons.horizon("0.998", 50_000 // 64) == pytest.approx(500 / 781)
    assert horizons.horizon("0", 1) == 1


def several(tmp_path, seeds):
    """A group of runs with three decays and two policies; its final accuracies, label to [S]."""
    random = np.random.default_rng(seeds)
    labels = ["raw", "raw/recomputed"]
    labels += [f"ema/{decay}/{policy}" for decay in ("0.9", "0.99", "0.9995") for policy in ("recomputed", "raw")]
    curves = {label: random.uniform(0.5, 0.9, (seeds, 2)) for label in labels}
    (group,) = groups_of(write_seeds(tmp_path / "seeds", curves))
    return group, {label: 100 * curve[:, -1] for label, curve in curves.items()}


def test_each_policy_is_a_curve_over_horizons_and_the_raw_weights_are_levels(tmp_path):
    group, final = several(tmp_path, 1)
    axes = horizons.horizon_figure(group).axes[0]
    assert axes.get_xscale() == "log"
    lines = {line.get_label(): line for line in axes.lines}
    for label in ("raw", "raw/recomputed"):
        np.testing.assert_allclose(lines[label].get_ydata(), final[label].repeat(2))
    curves = {container.get_label(): container.lines[0] for container in axes.containers}
    assert list(curves) == ["EMA, recomputed statistics", "EMA, raw statistics"]
    for policy in ("recomputed", "raw"):
        curve = curves[f"EMA, {policy} statistics"]
        expected = [final[f"ema/{decay}/{policy}"][0] for decay in ("0.9", "0.99", "0.9995")]
        np.testing.assert_allclose(curve.get_ydata(), expected)
        x = curve.get_xdata(orig=False)
        np.testing.assert_allclose(x, np.array([10, 100, 2000]) / STEPS, rtol=0.07)  # curves stand side by side
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.0128", "0.128", "2.56"]
    (above,) = axes.child_axes
    assert [tick.get_text() for tick in above.get_xticklabels()] == ["0.9", "0.99", "0.9995"]


def test_below_five_seeds_each_is_a_marker_and_from_five_on_there_are_bars(tmp_path):
    group, final = several(tmp_path / "few", 3)
    axes = horizons.horizon_figure(group).axes[0]
    assert not any(container.has_yerr for container in axes.containers)
    small = [line for line in axes.lines if line.get_markersize() == 3 and line.get_linestyle() == "None"]
    assert len(small) == 2 * 3  # policies by seeds
    np.testing.assert_allclose([line.get_ydata()[1] for line in small[:3]], final["ema/0.99/recomputed"])
    assert "small: each seed" in horizons.caption(group)

    group, final = several(tmp_path / "many", 5)
    axes = horizons.horizon_figure(group).axes[0]
    assert not [line for line in axes.lines if line.get_markersize() == 3]
    (bars,) = axes.containers[0].lines[2]
    low, high = scipy.stats.ttest_1samp(final["ema/0.99/recomputed"], 0).confidence_interval(0.95)
    np.testing.assert_allclose(bars.get_segments()[1][:, 1], [low, high])
    assert "Bars: 95% t-intervals" in horizons.caption(group)


@pytest.mark.parametrize(
    ("decays", "rotation"), [(("0.998", "0.9985"), 0), (("0.9", "0.99", "0.991"), 45), (("0.99", "0.990"), 45)]
)
def test_only_ticks_that_would_run_into_each_other_are_slanted(tmp_path, decays, rotation):
    labels = ["raw", *(f"ema/{decay}/raw" for decay in decays)]
    (group,) = groups_of(write_run(tmp_path / "run", classifiers=level(dict.fromkeys(labels, 0.5))))
    axes = horizons.horizon_figure(group).axes[0]
    for axis in (axes, *axes.child_axes):
        assert {tick.get_rotation() for tick in axis.get_xticklabels()} == {rotation}


LABELS = ["raw", "ema/0.9/recomputed", "ema/0.99/recomputed", "ema/0.9995/recomputed", "ema/0.99/raw"]


def validated(tmp_path, *validations):
    """A group of one run for each list of validation accuracies of LABELS; the test accuracies favour 0.9."""
    test = level(dict(zip(LABELS, [0.5, 0.9, 0.7, 0.6, 0.8], strict=True)), 2)
    for seed, validation in enumerate(validations):
        early_and_late = {
            label: [1 - accuracy, accuracy] for label, accuracy in zip(LABELS, validation, strict=False)
        }  # fmt: skip
        write_run(tmp_path / f"seed-{seed}", "--seed", seed, classifiers=test, validation=early_and_late)
    (group,) = groups_of(tmp_path)
    return group


def test_the_decay_is_chosen_by_mean_validation_accuracy_among_the_primarys_statistics(tmp_path):
    # Means over seeds: 0.5, 0.6, 0.55; the raw weights and another policy are better, and not asked.
    group = validated(tmp_path, [0.9, 0.7, 0.6, 0.5, 0.95], [0.9, 0.3, 0.6, 0.6, 0.95])
    assert horizons.chosen_on_validation(group) == "ema/0.99/recomputed"
    assert "Star: ema/0.99/recomputed, the best of these on the validation images" in horizons.caption(group)
    (star,) = [line for line in horizons.horizon_figure(group).axes[0].lines if line.get_marker() == "*"]
    np.testing.assert_allclose(star.get_ydata(), [70])
    np.testing.assert_allclose(star.get_xdata(), [100 / STEPS], rtol=0.07)


@pytest.mark.parametrize("validations", [[[]], [[0.9, 0.7, 0.6, 0.5, 0.95], []]])
def test_nothing_is_chosen_where_not_every_run_was_validated(tmp_path, validations):
    group = validated(tmp_path, *validations)
    assert horizons.chosen_on_validation(group) is None
    assert "Star" not in horizons.caption(group)
    assert not [line for line in horizons.horizon_figure(group).axes[0].lines if line.get_marker() == "*"]
