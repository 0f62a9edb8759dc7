"""What a run works with: the flags as typed, the device, and everything that follows from both and the data's size."""

import argparse
import itertools
from dataclasses import dataclass

from training import schedule
from training.device import Device, Precision, choose_precision, choose_xla
from training.errors import UserError
from training.labels import RAW, RAW_RECOMPUTED, Label
from training.options import MAX_DECAY, Decay

WIDEST = 192  # channels of the network's widest layers at --width 1
STEPS_PER_RUN = {"cpu": 10, "gpu": 100}  # one session.run drives this many; a signal and the progress bar wait for it


@dataclass(frozen=True)
class Settings:
    """Resolved once, from then on only read."""

    flags: argparse.Namespace  # as typed
    device: Device
    precision: Precision
    xla: bool  # compile the training loop
    steps_per_run: int
    epoch_steps: int
    decays: tuple  # of Decay; the first is the primary one
    labels: tuple  # of Label: the test classifiers, "raw" first
    seed_dtype: str = "int32"  # of the seeds of dropout; runs of earlier versions go on with their int64

    @property
    def total_steps(self):
        return self.flags.epochs * self.epoch_steps

    def learning_rate(self, step):
        """As schedule.learning_rate, after `step` steps."""
        cooldown_steps = self.flags.lr_cooldown * self.epoch_steps
        return schedule.learning_rate(self.flags.learning_rate, step, self.total_steps, cooldown_steps)

    @property
    def recompute_dropout(self):
        """The rate of dropout while batch statistics are recomputed."""
        return self.flags.dropout if self.flags.recompute_dropout else 0.0

    @property
    def primary(self):
        """The label of the first EMA classifier, which the gain is of."""
        return next(label for label in self.labels if label.weights == "ema")

    def resolved(self):
        """What stands beside the flags in config.json."""
        return {
            "precision": self.precision.name,
            "device": self.device.description,
            "xla": self.xla,
            "steps_per_run": self.steps_per_run,
            "decays": list(map(str, self.decays)),
            "seed_dtype": self.seed_dtype,
        }


def resolve(flags, device, train_size, begun=None, replicas=1):
    """The settings of a run.

    Args:
      flags: as typed.
      device: training.device.Device.
      train_size: number of images that are trained on.
      begun: training.run_directory.Begun of the run that is continued.
      replicas: how many the run is trained on; XLA is for one.

    Raises:
      UserError: flags that do not go together, or not with so few images, or not with what was trained before.
    """
    epoch_steps = train_size // flags.batch_size
    if not epoch_steps:
        raise UserError(f"--batch_size {flags.batch_size} is more than the {train_size} training images", 2)
    if flags.lr_cooldown > flags.epochs:
        raise UserError(f"--lr_cooldown {flags.lr_cooldown} is longer than --epochs {flags.epochs}: cool down less", 2)
    if begun:
        _check_continued(flags, begun, epoch_steps)
    decays = _decays(flags, train_size / flags.batch_size)
    return Settings(
        flags=flags,
        device=device,
        precision=(
            Precision(begun.precision, "")
            if begun
            else choose_precision(flags.precision, device, max(1, round(WIDEST * flags.width)))
        ),
        xla=replicas == 1 and choose_xla(flags.xla, device),
        steps_per_run=flags.steps_per_run or STEPS_PER_RUN[device.kind],
        epoch_steps=epoch_steps,
        decays=tuple(decays),
        labels=labels_of(decays, flags.ema_batch_stats),
        seed_dtype=begun.seed_dtype if begun else "int32",
    )


def _check_continued(flags, begun, epoch_steps):
    done = begun.step / epoch_steps
    if done > flags.epochs:
        raise UserError(f"--epochs {flags.epochs}: {flags.run_dir} is trained for {done:.4g} already: ask for more", 2)
    schedule.check_resumed(flags, begun.flags, done)


def labels_of(decays, policies):
    """The test classifiers of a run: the raw ones, then every decay with every policy."""
    raw = [RAW, RAW_RECOMPUTED] if "recomputed" in policies else [RAW]
    return (*raw, *(Label("ema", str(decay), policy) for decay, policy in itertools.product(decays, policies)))


def _decays(flags, epoch_steps):
    """The decays of --ema_decay, or those of --ema_horizon: 1 / (1 - decay) is the mean age of the averaged weights."""
    if not flags.ema_horizon:
        return flags.ema_decay
    for horizon in flags.ema_horizon:
        if horizon * epoch_steps < 1:
            raise UserError(
                f"--ema_horizon {horizon:g} is less than one step: ask for {1 / epoch_steps:.2g} or more", 2
            )
    found = [Decay(f"{1 - 1 / (horizon * epoch_steps):.10g}") for horizon in flags.ema_horizon]
    if max(found) >= MAX_DECAY or len(set(found)) < len(found):
        raise UserError(
            "--ema_horizon: a decay of 1, or the same decay twice, is not an average: ask for other horizons", 2
        )
    return found
