"""evaluate.py posthoc: averages of any width, made after training from snapshots of a few."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.integrate
from support.commands import TINY_RUN
from support.damage import flip_bit, truncate
from support.evaluating import arguments, leave_open
from support.files import read_rows
from training.errors import UserError

import ema
from analysis import posthoc


@pytest.fixture
def opened(restored, monkeypatch):
    return leave_open(monkeypatch, posthoc, restored)


def test_posthoc_writes_accuracy_against_width(opened, capsys):
    argv = ["--widths", 0.06, 0.12, "--basis", 0.05, 0.15]
    posthoc.main(arguments("posthoc", "--run_dir", opened.path, *argv))
    results = json.loads((opened.path / "posthoc.json").read_text())
    assert results["basis"] == [0.05, 0.15]
    assert list(results["relative_errors"]) == ["0.1"]
    assert results["relative_errors"]["0.1"] < 0.05
    assert [row["width"] for row in results["widths"]] == [0.06, 0.12]
    assert (opened.path / "posthoc.png").stat().st_size > 1000
    assert "width 0.12: " in capsys.readouterr().out
    # The last width is what the network holds now.
    snapshots = posthoc.Snapshots(opened.path)
    (made,) = snapshots.synthesise([0.12], [0.05, 0.15])
    values = opened.network.values()
    assert len(made) == 30  # weights, gamma and beta of ten layers
    for name, value in made.items():
        np.testing.assert_array_equal(values[name], value.astype(np.float32))
    right = np.mean(opened.logits(opened.dataset.test.images).argmax(1) == opened.dataset.test.labels)
    assert results["widths"][-1]["accuracy"] == right
    assert results["raw/recomputed"] == read_rows(opened.path)[-1]["classifiers"]["raw/recomputed"]


def test_posthoc_of_a_width_that_was_not_tracked_is_refused(opened):
    with pytest.raises(UserError, match=r"0\.07 was not tracked: choose from 0\.05, 0\.1, 0\.15") as error:
        posthoc.main(arguments("posthoc", "--run_dir", opened.path, "--basis", 0.07))
    assert error.value.status == 2


def test_posthoc_without_snapshots_names_the_flag(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"flags": {}}))
    with pytest.raises(UserError, match="--ema_power"):
        posthoc.main(SimpleNamespace(run_dir=tmp_path))


@pytest.mark.parametrize(("time", "other"), [(1, 1), (0.5, 1), (1, 0.25)])
@pytest.mark.parametrize(("gamma", "second"), [(2, 2), (6.94, 16.97), (0.5, 3)])
def test_inner_products_are_those_of_the_profiles(time, gamma, other, second):
    def profile(tau, time, gamma):
        return (gamma + 1) * tau**gamma / time ** (gamma + 1)

    expected, _ = scipy.integrate.quad(
        lambda tau: profile(tau, time, gamma) * profile(tau, other, second), 0, min(time, other)
    )
    found = posthoc.inner_products(np.float64(time), gamma, np.float64(other), second)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_width_that_was_tracked_is_made_of_itself_alone():
    times, widths = [4, 8, 12], [0.05, 0.1]
    grid = [(time, ema.power_gamma(width)) for time in times for width in widths]
    found = posthoc.coefficients(*zip(*grid, strict=True), 12, ema.power_gamma(0.1))
    np.testing.assert_allclose(found, [0, 0, 0, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("damage", [truncate, flip_bit])
def test_damaged_snapshot_is_named(tmp_path, damage):
    (tmp_path / "snapshots").mkdir()
    for step in (1, 2):
        arrays = {"0.05/w": np.arange(1000, dtype=np.float32), "updates": step}
        np.savez(tmp_path / "snapshots" / f"step-{step:09d}.npz", **arrays)
    damage(tmp_path / "snapshots" / "step-000000001.npz")
    with pytest.raises(UserError, match=r"step-000000001\.npz is damaged"):
        posthoc.Snapshots(tmp_path).synthesise([0.06], [0.05])


def test_images_held_out_choose_the_width(forked, tmp_path):
    directory = tmp_path / "run"
    flags = ["--ema_power", "0.05", "0.1", "--validation_size", 64, "--epochs", 2, "--run_dir", directory]
    assert forked("train.py", *TINY_RUN, *flags).returncode == 0
    result = forked("evaluate.py", "posthoc", "--run_dir", directory, "--widths", 0.04, 0.08, 0.2)
    assert result.returncode == 0, result.stderr
    results = json.loads((directory / "posthoc.json").read_text())
    best = max(results["widths"], key=lambda row: row["validation"])
    assert results["chosen"] == best["width"]
    assert f"chosen on the validation images: width {best['width']:g}" in result.stdout
