"""What a run works with: every flag as it was resolved, and what follows from them and from the data's size."""

import argparse
import itertools

import tensorflow.compat.v1 as tf

from training.cli import UserError
from training.device import choose_precision, choose_xla
from training.labels import RAW, RAW_RECOMPUTED, Label

STEPS_PER_RUN = {"cpu": 10, "gpu": 100}  # one session.run drives this many; a signal and the progress bar wait for it
SNAPSHOTS = 4  # of the power-function averages in an epoch: least squares over 20 epochs of them is off by under 1%


class Settings(argparse.Namespace):
    """Every flag by its name, resolved, and what follows from them; from then on only read.

    device            training.device.Device
    precision         name of the dtype that the convolutions compute in; `precision_reason`, for the log, may be ""
    xla               bool: compile the training loop
    steps_per_run     of one session.run
    snapshots         in an epoch; 0 without --ema_power
    epoch_steps, total_steps
    labels            of the test classifiers, training.labels.Label, "raw" first
    """

    @property
    def primary(self):
        """The label of the first EMA classifier, which the gain is of."""
        return next(label for label in self.labels if label.weights == "ema")

    def resolved(self):
        """What stands beside the flags in config.json."""
        chosen = {name: getattr(self, name) for name in ("precision", "xla", "steps_per_run")}
        return chosen | {"device": self.device.description}


def resolve(flags, place, begun, train_size, network):
    """The Settings of a run.

    Args:
      flags: as typed.
      place: training.strategies.OneDevice or another.
      begun: training.run_directory.SavedRun of the run that is continued; None for a new one.
      train_size: number of images that are trained on.
      network: the classifier of this width, which `auto` times in both precisions.

    Raises:
      UserError: flags that do not go together, or not with so few images, or not with what was trained before.
    """
    epoch_steps = train_size // flags.batch_size
    if not epoch_steps:
        raise UserError(f"--batch_size {flags.batch_size} is more than the {train_size} training images", 2)
    if flags.lr_cooldown > flags.epochs:
        raise UserError(f"--lr_cooldown {flags.lr_cooldown} is longer than --epochs {flags.epochs}: cool down less", 2)
    if begun:
        check_continued(flags, begun, epoch_steps)
        precision, reason = begun.precision, ""
    else:
        precision, reason = choose_precision(flags.precision, place.device, network)
    resolved = {
        "device": place.device,
        "precision": precision,
        "precision_reason": reason,
        "xla": place.replicas == 1 and choose_xla(flags.xla, place.device),
        "steps_per_run": STEPS_PER_RUN[place.device.kind],
        "snapshots": SNAPSHOTS if flags.ema_power else 0,
        "epoch_steps": epoch_steps,
        "total_steps": flags.epochs * epoch_steps,
        "labels": labels_of(flags.ema_decay, flags.ema_batch_stats),
    }
    return Settings(**vars(flags) | resolved)


def labels_of(decays, policies):
    """The test classifiers of a run: the raw ones, then every decay with every policy."""
    raw = [RAW, RAW_RECOMPUTED] if "recomputed" in policies else [RAW]
    return (*raw, *(Label("ema", decay, policy) for decay, policy in itertools.product(decays, policies)))


# ---------------------------------------------------------------------------------------------------------------
# The learning rate: constant, then linear to 0 over the last epochs, a pure function of the step


def learning_rate(settings, step):
    """The learning rate of the step that comes after `step` steps.

    Args:
      settings: Settings.
      step: int64 variable, the number of steps done.

    Returns:
      --learning_rate itself without a cooldown, else a function that Adam calls in every step for a float32 scalar; of
      a cooldown of n steps the last one has learning_rate / n.
    """
    if not settings.lr_cooldown:
        return settings.learning_rate
    cooldown_steps = settings.lr_cooldown * settings.epoch_steps

    def now():
        left = tf.cast(settings.total_steps - step.read_value(), tf.float32)
        return settings.learning_rate * tf.minimum(left / cooldown_steps, 1.0)

    return now


def check_continued(flags, begun, epoch_steps):
    """Checks that the run is not trained for longer, and that its steps had the learning rate that `flags` give them.

    Args:
      flags: of the resumption.
      begun: training.run_directory.SavedRun.

    Raises:
      UserError: it is, or it is inside a cooldown, the one it was trained with or the one asked for now.
    """
    saved, done = begun.flags, begun.step / epoch_steps
    if done > flags.epochs:
        raise UserError(f"--epochs {flags.epochs}: {flags.run_dir} is trained for {done:.4g} already: ask for more", 2)
    if (saved.epochs, saved.lr_cooldown) == (flags.epochs, flags.lr_cooldown):
        return
    for cooled in (saved, flags):
        begins = cooled.epochs - cooled.lr_cooldown
        if cooled.lr_cooldown and done > begins:
            raise UserError(
                f"{flags.run_dir} is trained for {done:.4g} epochs, but --epochs {cooled.epochs} --lr_cooldown "
                f"{cooled.lr_cooldown} lowers the learning rate from epoch {begins} on: resume it with --epochs "
                f"{saved.epochs} --lr_cooldown {saved.lr_cooldown}, or a copy made before",
                2,
            )
