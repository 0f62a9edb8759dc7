"""Everything that a run works with: the flags, resolved, and what follows from them and from the data."""

import argparse
import hashlib
import itertools
import json

import tensorflow.compat.v1 as tf

from training.cli import UserError
from training.device import choose_precision, choose_xla
from training.labels import RAW, RAW_RECOMPUTED, Label
from training.run_directory import load_saved_run

STEPS_PER_RUN = {"cpu": 10, "gpu": 100}  # per session.run; a signal and the progress bar wait for it
SNAPSHOTS = 4  # per epoch; the post-hoc fit over 20 epochs of them is off by less than 1%
PER_WORKER_FLAGS = {"run_dir", "data_dir", "device"}  # may differ between workers


class Settings(argparse.Namespace):
    """Every flag by its name, resolved; read-only. Besides the flags:

    flags             argparse.Namespace, as typed
    strategy          training.strategies.SingleDevice or a subclass
    device            training.device.Device
    precision         dtype name of the convolutions; `precision_reason`, for the log, may be ""
    xla               bool: compile the training loop
    steps_per_run     steps per session.run
    snapshots         per epoch; 0 without --ema_power
    epoch_steps, total_steps
    labels            training.labels.Label of every test classifier, "raw" first
    saved_step        step of the newest checkpoint of the run to resume, else 0
    """

    @property
    def primary(self):
        """The label of the first EMA classifier, whose gain is reported."""
        return next(label for label in self.labels if label.weights == "ema")

    def resolved(self):
        """Returns what config.json keeps next to the flags."""
        chosen = {name: getattr(self, name) for name in ("precision", "xla", "steps_per_run")}
        return chosen | {"device": self.device.description}


def resolve(flags, strategy, dataset, network):
    """Returns the Settings of a run.

    Args:
      flags: as typed.
      strategy: training.strategies.SingleDevice or a subclass.
      dataset: data.Dataset.
      network: model.classifier, which --precision auto times in both precisions.

    Raises:
      UserError: the flags do not fit together, or not with the size of the data or the run to resume.
    """
    epoch_steps = len(dataset.train.labels) // flags.batch_size
    if not epoch_steps:
        size = len(dataset.train.labels)
        raise UserError(f"--batch_size {flags.batch_size}: only {size} training images available", 2)
    if flags.lr_cooldown > flags.epochs:
        raise UserError(
            f"--lr_cooldown {flags.lr_cooldown} is longer than --epochs {flags.epochs}: use a shorter cooldown", 2
        )
    saved = load_saved_run(flags.run_dir) if flags.resume else None
    if saved:
        check_schedule(flags, saved, epoch_steps)
    if saved:
        precision, reason = saved.precision, ""
    else:
        precision, reason = choose_precision(flags, strategy.device, network, dataset.image_shape)
    resolved = {
        "flags": flags,
        "strategy": strategy,
        "device": strategy.device,
        "precision": precision,
        "precision_reason": reason,
        "xla": strategy.num_replicas == 1 and choose_xla(flags.xla, strategy.device),
        "steps_per_run": STEPS_PER_RUN[strategy.device.kind],
        "snapshots": SNAPSHOTS if flags.ema_power else 0,
        "epoch_steps": epoch_steps,
        "total_steps": flags.epochs * epoch_steps,
        "labels": labels_of(flags.ema_decay, flags.ema_batch_stats),
        "saved_step": saved.step if saved else 0,
    }
    return Settings(**vars(flags) | resolved)


def labels_of(decays, policies):
    """Returns the labels of a run's test classifiers: the raw ones, then every decay with every policy."""
    raw = [RAW, RAW_RECOMPUTED] if "recomputed" in policies else [RAW]
    return (*raw, *(Label("ema", decay, policy) for decay, policy in itertools.product(decays, policies)))


def check_schedule(flags, saved, epoch_steps):
    """Checks that the steps done so far had the learning rate that `flags` would give them.

    Args:
      flags: of the resumption.
      saved: training.run_directory.SavedRun.

    Raises:
      UserError: the run is already longer, or inside a cooldown, of the saved flags or of the new ones.
    """
    done = saved.step / epoch_steps
    if done > flags.epochs:
        raise UserError(f"--epochs {flags.epochs}: {flags.run_dir} already has {done:.4g} epochs, use more", 2)
    if (saved.flags.epochs, saved.flags.lr_cooldown) == (flags.epochs, flags.lr_cooldown):
        return
    for schedule in (saved.flags, flags):
        start = schedule.epochs - schedule.lr_cooldown
        if schedule.lr_cooldown and done > start:
            raise UserError(
                f"{flags.run_dir} has {done:.4g} epochs, but --epochs {schedule.epochs} --lr_cooldown "
                f"{schedule.lr_cooldown} lowers the learning rate from epoch {start} on: resume it with --epochs "
                f"{saved.flags.epochs} --lr_cooldown {saved.flags.lr_cooldown}, or resume an earlier copy",
                2,
            )


def fingerprint(settings, dataset):
    """Returns a digest, 32 bytes, of everything that all workers must have in common."""
    shared = {name: value for name, value in vars(settings.flags).items() if name not in PER_WORKER_FLAGS}
    shared |= {"precision": settings.precision, "saved_step": settings.saved_step, "tensorflow": tf.__version__}
    digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode())
    for split in (dataset.train, *dataset.evaluated.values()):
        digest.update(split.labels.tobytes())
    return digest.digest()


def learning_rate(settings, step):
    """Returns the learning rate of the step that follows `step`: constant, then linear to 0 over the last epochs.

    Args:
      settings: Settings.
      step: int64 variable, the number of steps done.

    Returns:
      --learning_rate itself without a cooldown, else a function that Adam calls in every step for a float32 scalar;
      the last of n cooldown steps has learning_rate / n.
    """
    if not settings.lr_cooldown:
        return settings.learning_rate
    cooldown_steps = settings.lr_cooldown * settings.epoch_steps

    def scheduled():
        steps_left = tf.cast(settings.total_steps - step.read_value(), tf.float32)
        return settings.learning_rate * tf.minimum(steps_left / cooldown_steps, 1.0)

    return scheduled
