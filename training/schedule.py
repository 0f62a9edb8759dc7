"""The learning rate of a step: constant, then linear to 0 over the last epochs, a pure function of the step."""

import tensorflow.compat.v1 as tf

from training.errors import UserError


def learning_rate(peak, step, total_steps, cooldown_steps):
    """The learning rate of the step that comes after `step` steps.

    Args:
      peak: float.
      step: int64 variable, the number of steps done.
      total_steps, cooldown_steps: ints; the last step has peak / cooldown_steps.

    Returns:
      `peak` itself without a cooldown, else a function that Adam calls in every step for a float32 scalar.
    """
    if not cooldown_steps:
        return peak

    def now():
        left = tf.cast(total_steps - step.read_value(), tf.float32)
        return peak * tf.minimum(left / cooldown_steps, 1.0)

    return now


def check_resumed(flags, saved, epochs_done):
    """Checks that the steps done had the learning rate that `flags` would give them.

    Args:
      flags, saved: of the resumption, and of the run until now.
      epochs_done: float.

    Raises:
      UserError: the run is inside a cooldown, the one it was trained with or the one asked for now.
    """
    if (saved.epochs, saved.lr_cooldown) == (flags.epochs, flags.lr_cooldown):
        return
    for cooled in (saved, flags):
        begins = cooled.epochs - cooled.lr_cooldown
        if cooled.lr_cooldown and epochs_done > begins:
            raise UserError(
                f"{flags.run_dir} is trained for {epochs_done:.4g} epochs, but --epochs {cooled.epochs} --lr_cooldown "
                f"{cooled.lr_cooldown} lowers the learning rate from epoch {begins} on: resume it with --epochs "
                f"{saved.epochs} --lr_cooldown {saved.lr_cooldown}, or a copy made before",
                2,
            )
