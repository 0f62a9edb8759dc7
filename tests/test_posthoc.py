"""evaluate.py posthoc: averages of any width, made after training from snapshots of a few."""

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


def test_accuracy_against_width(restored, capsys):
    snapshots = posthoc.Snapshots(restored.path)
    posthoc.evaluate(restored, snapshots, [0.05, 0.15], [0.02, 0.12, 0.06])
    results = json.loads((restored.path / "posthoc.json").read_text())
    assert (results["basis"], results["step"], results["raw_step"]) == ([0.05, 0.15], 16, 16)
    assert list(results["relative_errors"]) == ["0.1"]
    assert results["relative_errors"]["0.1"] < 0.05
    assert [row["width"] for row in results["widths"]] == [0.02, 0.12, 0.06]
    assert (restored.path / "posthoc.png").stat().st_size > 1000
    text = capsys.readouterr().out
    assert "after step 16, epoch 2 of 2" in text.replace("\n ", "") and "warning: the raw" not in text
    for row in results["widths"]:
        warning = " (warning: over 5%)" if row["residual"] > 0.05 else ""
        line = f"width {row['width']}: {100 * row['accuracy']:.2f}%, residual {row['residual']:.2%}{warning}"
        assert line in text.splitlines()
    assert text.count("(warning") == 1
    # The last width is what the network holds now.
    (made,), _ = snapshots.synthesise([0.06], [0.05, 0.15])
    values = restored.network.values()
    assert len(made) == 30  # weights, gamma and beta of ten layers
    for name, value in made.items():
        np.testing.assert_array_equal(values[name], value.astype(np.float32))
    right = np.mean(restored.logits(restored.dataset.test.images).argmax(1) == restored.dataset.test.labels)
    assert results["widths"][-1]["accuracy"] == right
    assert results["raw/recomputed"] == read_rows(restored.path)[-1]["classifiers"]["raw/recomputed"]
    assert results["chosen"] is None


def test_raw_weights_of_another_step_than_the_averages_are_called_so(bank_run, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(bank_run, path)
    for file in sorted((path / "snapshots").iterdir())[5:]:
        file.unlink()
    posthoc.main(arguments("posthoc", "--run_dir", path, "--widths", 0.1))
    results = json.loads((path / "posthoc.json").read_text())
    assert (results["step"], results["raw_step"]) == (10, 16)
    text = capsys.readouterr().out
    assert "averages after step 10, epoch 1.25 of 2 (unfinished)" in text.replace("\n ", "")
    assert "raw weights, recomputed statistics, after step 16: " in text
    assert "warning: the raw weights are those after step 16" in text


def test_width_that_was_not_tracked_is_no_basis(restored):
    with pytest.raises(UserError, match=r"0\.07 was not tracked: choose from 0\.05, 0\.1, 0\.15") as error:
        posthoc.main(arguments("posthoc", "--run_dir", restored.path, "--basis", 0.07))
    assert error.value.status == 2


def test_no_snapshots_name_the_flag(tmp_path):
    (tmp_path / "config.json").write_text('{"flags": {}}')
    with pytest.raises(UserError, match="--ema_power"):
        posthoc.main(arguments("posthoc", "--run_dir", tmp_path))
    (tmp_path / "config.json").write_text('{"flags": {"ema_power": [0.05, 0.1]}}')
    with pytest.raises(UserError, match=r"no snapshots: let .* --resume"):
        posthoc.main(arguments("posthoc", "--run_dir", tmp_path))
    (tmp_path / "summary.json").write_text("{}")  # it is at its end, and they were deleted
    with pytest.raises(UserError, match=r"restore .*snapshots from a copy, or let .* --resume .*--epochs 21 make"):
        posthoc.main(arguments("posthoc", "--run_dir", tmp_path))
    (tmp_path / "config.json").write_text('{"flags": {"ema_power": [0.05, 0.1], "lr_cooldown": 4}}')  # no longer, then
    with pytest.raises(UserError, match=r"restore .*snapshots from a copy$"):
        posthoc.main(arguments("posthoc", "--run_dir", tmp_path))


@pytest.mark.parametrize("name", ["step-000000002 (copy)", "step-000000002.sync-conflict", "step-000000009_mine"])
def test_a_copy_beside_the_snapshots_is_none(tmp_path, name):
    (tmp_path / "snapshots").mkdir()
    for step in (1, 2):
        np.savez(tmp_path / "snapshots" / f"step-{step:09d}.npz", **{"0.05/w": np.zeros(3), "updates": step})
    shutil.copyfile(tmp_path / "snapshots" / "step-000000002.npz", tmp_path / "snapshots" / f"{name}.npz")
    found = posthoc.Snapshots(tmp_path)
    assert (len(found.files), found.step) == (2, 2)


def overwrite(file):
    file.write_text("junk")


@pytest.mark.parametrize("damage", [truncate, flip_bit, overwrite])
def test_damaged_snapshot_is_named(tmp_path, damage):
    (tmp_path / "snapshots").mkdir()
    for step in (1, 2):
        arrays = {"0.05/w": np.arange(1000, dtype=np.float32), "updates": step}
        np.savez(tmp_path / "snapshots" / f"step-{step:09d}.npz", **arrays)
    damage(tmp_path / "snapshots" / "step-000000001.npz")
    with pytest.raises(UserError, match=r"step-000000001\.npz is damaged") as caught:
        posthoc.Snapshots(tmp_path).synthesise([0.06], [0.05])
    assert "pickle" not in str(caught.value)


@pytest.mark.parametrize("place", [1, 2])
@pytest.mark.parametrize(
    "change",
    [
        {"updates": 0},  # every step was skipped, or somebody's own
        {"updates": -5},
        {"updates": "x"},
        {"0.05/w": np.full(3, np.nan)},
        {"0.05/w": np.array(["a"])},
        {"foo": np.zeros(3)},
        {"0.05/w": np.zeros(4)},
        {"0.1/w": np.zeros(3)},
    ],
    ids=str,
)
def test_snapshots_that_are_none_of_the_run_are_named_and_do_not_hang(tmp_path, restored, monkeypatch, place, change):
    (tmp_path / "snapshots").mkdir()
    for step in (1, 2):
        arrays = {"0.05/w": np.ones(3), "updates": step} | (change if step == place else {})
        np.savez(tmp_path / "snapshots" / f"step-{step:09d}.npz", **arrays)
    monkeypatch.setattr(restored, "values", lambda label: {"w": np.ones(3)})
    monkeypatch.setattr(restored.flags, "ema_power", [0.05])
    with pytest.raises(UserError, match=rf"step-00000000{place}\.npz is (damaged|not of this run).*: delete it"):
        posthoc.evaluate(restored, posthoc.Snapshots(tmp_path), [0.05], [0.06])


# ---------------------------------------------------------------------------------------------------------------
# Coefficients


def profile(tau, time, gamma):
    return np.where(tau <= time, (gamma + 1) * tau**gamma / time ** (gamma + 1), 0)


@pytest.mark.parametrize(("time", "other"), [(1, 1), (0.5, 1), (1, 0.25)])
@pytest.mark.parametrize(("gamma", "second"), [(2, 2), (6.94, 16.97), (0.5, 3)])
def test_inner_products_are_those_of_the_profiles(time, gamma, other, second):
    product = lambda tau: profile(tau, time, gamma) * profile(tau, other, second)  # noqa: E731
    expected, _ = scipy.integrate.quad(product, 0, min(time, other))
    found = posthoc.inner_products(np.float64(time), gamma, np.float64(other), second)
    assert found == pytest.approx(expected, rel=1e-6)


def coefficients(times, widths, target):
    grid = [(time, ema.power_gamma(width)) for time in times for width in widths]
    return *posthoc.coefficients(*zip(*grid, strict=True), times[-1], ema.power_gamma(target)), grid


def test_a_width_that_was_tracked_is_made_of_itself_alone():
    shares, residual, _ = coefficients([4, 8, 12], [0.05, 0.1], 0.1)
    np.testing.assert_allclose(shares, [0, 0, 0, 0, 0, 1], atol=1e-6)
    assert residual < 1e-6


@pytest.mark.parametrize(("steps", "target", "sound"), [(8, 0.07, True), (8, 0.03, False), (1, 0.07, False)])
def test_residual_is_the_relative_distance_of_the_profiles_and_shares_add_up_to_1(steps, target, sound):
    times = 12.0 * np.arange(1, steps + 1)
    shares, residual, grid = coefficients(times, [0.05, 0.1], target)
    tau = (np.arange(200_000) + 0.5) / 200_000 * times[-1]
    wanted = profile(tau, times[-1], ema.power_gamma(target))
    made = sum(share * profile(tau, *one) for share, one in zip(shares, grid, strict=True))
    assert residual == pytest.approx(np.linalg.norm(made - wanted) / np.linalg.norm(wanted), rel=1e-3)
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    assert (residual <= posthoc.MAX_RESIDUAL) == sound


def rows(*validation, residuals=(0.01, 0.01, 0.01)):
    return [
        {"width": width, "accuracy": 0.5, "residual": residual} | ({} if value is None else {"validation": value})
        for width, value, residual in zip((0.05, 0.1, 0.2), validation, residuals, strict=True)
    ]


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        (rows(0.5, 0.7, 0.6), 0.1),
        (rows(0.5, 0.7, 0.6, residuals=(0.01, 0.06, 0.01)), 0.2),  # these snapshots cannot make the best
        (rows(0.5, 0.7, 0.6, residuals=(0.1, 0.1, 0.1)), None),
        (rows(None, None, None), None),
    ],
    ids=str,
)
def test_images_held_out_choose_among_the_widths_that_the_snapshots_can_make(found, chosen, capsys):
    assert posthoc.choose_width(found) == chosen
    assert f"chosen: {f'width {chosen}' if chosen else 'no width'}" in capsys.readouterr().out
