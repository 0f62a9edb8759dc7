"""evaluate.py posthoc: averages of any std, made after training from snapshots of a few."""

import json
import shutil

import numpy as np
import pytest
import scipy.integrate
from support.damage import flip_bit, truncate
from support.evaluating import arguments
from support.files import read_rows

import ema
from analysis import posthoc
from training.cli import UserError


def test_accuracy_against_std(restored, capsys):
    snapshots = posthoc.Snapshots(restored.path)
    posthoc.evaluate(restored, snapshots, [0.05, 0.15], [0.02, 0.12, 0.06])
    results = json.loads((restored.path / "posthoc.json").read_text())
    assert (results["basis"], results["step"], results["raw_step"]) == ([0.05, 0.15], 16, 16)
    assert list(results["relative_errors"]) == ["0.1"]
    assert results["relative_errors"]["0.1"] < 0.05
    assert [row["std"] for row in results["stds"]] == [0.02, 0.12, 0.06]
    assert (restored.path / "posthoc.png").stat().st_size > 1000
    lines = capsys.readouterr().out.splitlines()
    for row in results["stds"]:
        (line,) = (line for line in lines if line.startswith(f"std {row['std']}: {100 * row['accuracy']:.2f}%"))
        assert f"{row['residual']:.2%}" in line and ("warning" in line) == (row["residual"] > 0.05)
    # The network still holds the last std.
    (average,), _ = snapshots.synthesize([0.06], [0.05, 0.15])
    values = restored.network.values()
    assert len(average) == 30  # weights, gamma and beta of ten layers
    for name, value in average.items():
        np.testing.assert_array_equal(values[name], value.astype(np.float32))
    accuracy = np.mean(restored.logits(restored.dataset.test.images).argmax(1) == restored.dataset.test.labels)
    assert results["stds"][-1]["accuracy"] == accuracy
    assert results["raw/recomputed"] == read_rows(restored.path)[-1]["classifiers"]["raw/recomputed"]
    assert results["chosen"] is None


def test_raw_weights_of_another_step(bank_run, tmp_path, capsys):
    path = shutil.copytree(bank_run, tmp_path / "run")
    for file in sorted((path / "snapshots").iterdir())[5:]:
        file.unlink()
    posthoc.main(arguments("posthoc", "--run_dir", path, "--stds", 0.1))
    results = json.loads((path / "posthoc.json").read_text())
    assert (results["step"], results["raw_step"]) == (10, 16)
    assert "warning: do not compare" in capsys.readouterr().out


def test_untracked_basis_is_a_usage_error(restored):
    with pytest.raises(UserError, match=r"--basis 0\.07") as error:
        posthoc.main(arguments("posthoc", "--run_dir", restored.path, "--basis", 0.07))
    assert error.value.status == 2


@pytest.mark.parametrize(("flags", "hint"), [({}, "--ema_power"), ({"ema_power": [0.05, 0.1]}, "--resume")])
def test_missing_snapshots_name_the_flag(tmp_path, flags, hint):
    (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
    with pytest.raises(UserError, match=hint):
        posthoc.main(arguments("posthoc", "--run_dir", tmp_path))


def write_snapshots(path, **changed):
    """Writes the snapshots of steps 1 and 2, and returns the file of step 1, of which some arrays are changed."""
    (path / "snapshots").mkdir()
    for step in (2, 1):
        arrays = {"0.05/w": np.arange(1000, dtype=np.float32), "updates": step}
        file = path / "snapshots" / f"step-{step:09d}.npz"
        np.savez(file, **arrays | (changed if step == 1 else {}))
    return file


@pytest.mark.parametrize("damage", [truncate, flip_bit, lambda file: file.write_text("junk")])
def test_corrupt_snapshot_is_named(tmp_path, damage):
    damage(write_snapshots(tmp_path))
    with pytest.raises(UserError, match=r"step-000000001\.npz"):
        posthoc.Snapshots(tmp_path).synthesize([0.06], [0.05])


@pytest.mark.parametrize("change", [{"updates": 0}, {"updates": "x"}, {"foo": np.zeros(3)}], ids=str)
def test_invalid_snapshot_is_named(tmp_path, change):
    write_snapshots(tmp_path, **change)
    with pytest.raises(UserError, match=r"step-000000001\.npz"):
        posthoc.Snapshots(tmp_path).synthesize([0.06], [0.05])


# ---------------------------------------------------------------------------------------------------------------
# Coefficients


def profile(tau, time, gamma):
    return np.where(tau <= time, (gamma + 1) * tau**gamma / time ** (gamma + 1), 0)


@pytest.mark.parametrize(("time", "second_time"), [(1, 1), (0.5, 1), (1, 0.25)])
@pytest.mark.parametrize(("gamma", "second_gamma"), [(2, 2), (6.94, 16.97), (0.5, 3)])
def test_inner_products_agree_with_quadrature(time, gamma, second_time, second_gamma):
    expected, _ = scipy.integrate.quad(
        lambda tau: profile(tau, time, gamma) * profile(tau, second_time, second_gamma), 0, min(time, second_time)
    )
    product = posthoc.inner_products(np.float64(time), gamma, np.float64(second_time), second_gamma)
    assert product == pytest.approx(expected, rel=1e-6)


def coefficients(times, stds, target):
    grid = [(time, ema.power_gamma(std)) for time in times for std in stds]
    return *posthoc.coefficients(*zip(*grid, strict=True), times[-1], ema.power_gamma(target)), grid


def test_tracked_std_uses_only_itself():
    shares, residual, _ = coefficients([4, 8, 12], [0.05, 0.1], 0.1)
    np.testing.assert_allclose(shares, [0, 0, 0, 0, 0, 1], atol=1e-6)
    assert residual < 1e-6


@pytest.mark.parametrize(("steps", "target", "valid"), [(8, 0.07, True), (8, 0.03, False), (1, 0.07, False)])
def test_residual_is_the_distance_of_profiles(steps, target, valid):
    times = 12.0 * np.arange(1, steps + 1)
    shares, residual, grid = coefficients(times, [0.05, 0.1], target)
    tau = (np.arange(200_000) + 0.5) / 200_000 * times[-1]
    wanted = profile(tau, times[-1], ema.power_gamma(target))
    combined = sum(share * profile(tau, *point) for share, point in zip(shares, grid, strict=True))
    assert residual == pytest.approx(np.linalg.norm(combined - wanted) / np.linalg.norm(wanted), rel=1e-3)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (residual <= posthoc.MAX_RESIDUAL) == valid


@pytest.mark.parametrize(
    ("validation", "residuals", "chosen"),
    [
        ((0.5, 0.7, 0.6), (0.01, 0.01, 0.01), 0.1),
        ((0.5, 0.7, 0.6), (0.01, 0.06, 0.01), 0.2),  # the snapshots cannot build the best
        ((0.5, 0.7, 0.6), (0.1, 0.1, 0.1), None),
        (None, (0.01, 0.01, 0.01), None),
    ],
    ids=str,
)
def test_validation_chooses_a_valid_std(validation, residuals, chosen):
    rows = [{"std": std, "accuracy": 0.5, "residual": r} for std, r in zip((0.05, 0.1, 0.2), residuals, strict=True)]
    for row, accuracy in zip(rows, validation or (), strict=False):
        row["validation"] = accuracy
    assert posthoc.choose_std(rows) == chosen
