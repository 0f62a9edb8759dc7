"""Settings: what follows from the flags, the device and the size of the data; resolved once and then only read."""

import dataclasses

import pytest
from support.tiny import resolved
from training.errors import UserError

from training import config, device, run_directory, settings

CPU, GPU = device.Device("cpu", "a CPU", False), device.Device("gpu", "a GPU", True)


def resolve(*argv, size=50_000, on=CPU, begun=None):
    return settings.resolve(config.parse(argv), on, size, begun)


@pytest.mark.parametrize("epochs", [0.64, 100, 1000])
def test_a_horizon_is_kept_to_many_digits(epochs):
    (decay,) = resolve("--ema_horizon", str(epochs)).decays
    assert 1 / (1 - decay) == pytest.approx(epochs * 50_000 / 64, rel=1e-3)
    assert epochs != 0.64 or str(decay) == "0.998"


@pytest.mark.parametrize("horizons", [["1e9"], ["0.0001"], ["1000", "1000.0001"]])
def test_horizons_that_are_no_averages_are_refused(horizons):
    with pytest.raises(UserError, match="--ema_horizon"):
        resolve("--ema_horizon", *horizons)


def test_labels_are_the_raw_ones_and_every_decay_with_every_policy():
    made = resolve("--ema_decay", "0.90", "0.8", "--ema_batch_stats", "recomputed", "raw")
    assert list(map(str, made.labels)) == [
        "raw",
        "raw/recomputed",
        "ema/0.90/recomputed",
        "ema/0.90/raw",
        "ema/0.8/recomputed",
        "ema/0.8/raw",
    ]
    assert str(made.primary) == "ema/0.90/recomputed"
    assert str(made.primary.baseline) == "raw/recomputed"
    assert list(map(str, resolve().labels)) == ["raw", "ema/0.998/raw"]


def test_steps_follow_from_the_size_of_the_data():
    made = resolve("--epochs", "3", "--batch_size", "48", size=100)
    assert (made.epoch_steps, made.total_steps) == (2, 6)
    with pytest.raises(UserError, match="--batch_size 101") as caught:
        resolve("--batch_size", "101", size=100)
    assert caught.value.status == 2


@pytest.mark.parametrize(("on", "xla", "steps_per_run"), [(CPU, False, 10), (GPU, True, 100)], ids=["cpu", "gpu"])
def test_the_device_decides_what_is_left_to_it(on, xla, steps_per_run):
    made = resolve("--precision", "float32", on=on)
    assert (made.xla, made.steps_per_run) == (xla, steps_per_run)
    made = resolve("--precision", "float32", "--xla", "off" if xla else "on", "--steps_per_run", "7", on=on)
    assert (made.xla, made.steps_per_run) == (not xla, 7)


def test_a_gpu_that_has_bfloat16_takes_it_and_a_cpu_that_has_not_does_not():
    assert resolve(on=GPU).precision.name == "bfloat16"
    assert resolve(on=CPU).precision.name == "float32"
    assert resolve("--precision", "bfloat16", on=CPU).precision.name == "bfloat16"


@pytest.mark.parametrize(("ratio", "precision"), [(1.65, "bfloat16"), (1.0, "float32"), (0.57, "float32")])
def test_a_cpu_that_lists_bfloat16_is_measured_and_the_log_says_so(monkeypatch, ratio, precision):
    monkeypatch.setattr(device, "bfloat16_speed", lambda channels: ratio)
    made = resolve(on=CPU._replace(has_bfloat16=True)).precision
    assert made.name == precision
    assert f"{ratio:.1f} times float32" in made.reason


def test_the_measurement_is_a_number():
    assert 0.01 < device.bfloat16_speed(8) < 100


def test_a_resumed_run_keeps_its_precision_and_cannot_end_before_it_stopped():
    flags = config.parse(["--epochs", "9"])
    begun = run_directory.Begun(flags, "bfloat16", 4 * 781)
    assert resolve("--epochs", "4", begun=begun).precision.name == "bfloat16"
    with pytest.raises(UserError, match=r"--epochs 3: .* is trained for 4 already") as caught:
        resolve("--epochs", "3", begun=begun)
    assert caught.value.status == 2


def test_settings_are_frozen_and_say_what_was_resolved():
    made = resolved("--ema_decay", "0.90")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.xla = True
    assert made.resolved() == {
        "precision": "float32",
        "device": made.device.description,
        "xla": False,
        "steps_per_run": 10,
        "decays": ["0.90"],
        "seed_dtype": "int32",
    }


def test_a_run_of_an_earlier_version_goes_on_with_the_seeds_it_had():
    """Its config.json says nothing of them."""
    assert resolve().seed_dtype == "int32"
    assert resolve(begun=run_directory.Begun(config.parse([]), "float32", 0)).seed_dtype == "int64"
    assert resolve(begun=run_directory.Begun(config.parse([]), "float32", 0, "int32")).seed_dtype == "int32"
