"""Exponential moving averages of the weights: the guide's getter, decay schedules, and the averages of one run.

The guide's recipe, but for its race between step and average; the defaults of train.py do just this:

    ema = tf.train.ExponentialMovingAverage(decay=0.998)
    with tf.control_dependencies([train_op]):       # strictly after the optimiser's step
        ema_op = ema.apply(var_class)
    ema_logits = classifier(x, phase=False, reuse=True, getter=ema_getter(ema))
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf


def ema_getter(*emas):
    """The guide's custom getter: the shadow of a variable where one of `emas` keeps one, else the variable itself.

    Args:
      emas: tf.train.ExponentialMovingAverage objects that were applied to some variables; the guide has one.

    Returns:
      A function for `tf.variable_scope(custom_getter=...)`, which raises ValueError where there is a partitioner: the
      average keeps no shadow of such variables. Its attribute `given` collects what it handed out, for
      `check_replaced`: variable.ref() to the variable or its shadow.
    """

    def getter(getter, name, *args, **kwargs):  # TensorFlow passes the first one by this keyword
        if kwargs.get("partitioner") is not None:
            raise ValueError(f"{name} has a partitioner, and averages of partitioned variables are not handed out")
        variable = getter(name, *args, **kwargs)
        for ema in emas:
            shadow = ema.average(variable)
            if shadow is not None:  # a truth test would fail: a resource variable has no truth value in a graph
                given[variable.ref()] = shadow
                return shadow
        given[variable.ref()] = variable
        return variable

    getter.given = given = {}
    return getter


def check_replaced(getter, var_list):
    """Checks that a network built through `getter` reads the shadows of exactly `var_list`.

    A getter that finds no shadow falls back to the raw variable without a word, and the "EMA"
    network silently equals the raw one in part or in whole. What a network reads past its getter, such as a variable
    that a layer keeps as an attribute, is not seen here.

    Raises:
      ValueError: names a variable that was not replaced, or one that should not have been.
    """
    for variable in var_list:
        given = getter.given.get(variable.ref())
        if given is None:
            raise ValueError(
                f"the EMA network never asked for {variable.op.name}: enter its variable scope with reuse=True, or it "
                "makes new variables"
            )
        if given is variable:
            raise ValueError(f"the EMA network reads {variable.op.name} itself: its moving average was not applied")
    expected = {variable.ref() for variable in var_list}
    for reference, given in getter.given.items():
        if reference not in expected and given is not reference.deref():
            name = reference.deref().op.name
            raise ValueError(f"the EMA network reads a moving average of {name}, which is not to be averaged")


# ---------------------------------------------------------------------------------------------------------------
# Decay schedules: what replaces the guide's constant, as a tensor handed to the same tf.train.ExponentialMovingAverage

STARTS = ("initial", "warmup", "unbiased")


def scheduled_decay(decay, start, t):
    """The decay of update number t under a start.

    initial   b, the guide's: after n updates b^n of the shadow is still the initial weights
    warmup    min(b, (1 + t) / (10 + t)), as tf.train.ExponentialMovingAverage does with num_updates
    unbiased  b (1 - b^(t-1)) / (1 - b^t): the shadow is (ema - w0 b^t) / (1 - b^t) exactly, Adam's bias
              correction (Kingma & Ba 2015) for a shadow that starts at w0

    Args:
      decay: b, a float in [0, 1).
      start: one of STARTS.
      t: integer scalar tensor, the number of this update, counted from 1 (at 0 the last one is 0 / 0, and
        one NaN stays in a shadow for ever).

    Returns:
      b itself for "initial", else a float64 scalar tensor.
    """
    if start == "initial" or decay == 0:
        return decay
    t = tf.cast(t, tf.float64)
    if start == "warmup":
        return tf.minimum(tf.constant(decay, tf.float64), (1 + t) / (10 + t))
    # expm1 keeps every digit of 1 - b^t, which for b near 1 and small t is a difference of near equals.
    log_decay = math.log(decay)
    return decay * tf.math.expm1((t - 1) * log_decay) / tf.math.expm1(t * log_decay)


def power_decay(width, t):
    """The decay of update t of a power-function average: (1 - 1/t)^(gamma + 1) (Karras et al. 2024, eq. 4).

    Args:
      width: the average's relative width sigma_rel, in (0, 0.28).
      t: integer scalar tensor, counted from 1.

    Returns:
      float64 scalar tensor; 0 at t = 1.
    """
    return (1 - 1 / tf.cast(t, tf.float64)) ** (power_gamma(width) + 1)


def power_gamma(width):
    """gamma of a power-function average of relative width `width` (Karras et al. 2024, eq. 5 and algorithm 2).

    The profile tau^gamma over tau in [0, 1] has variance (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = width^2.
    """
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return float(roots[np.abs(roots.imag) < 1e-9].real.max())


def warmup_steps(decay):
    """The number of the update from which on a decay rules under "warmup": (1 + t) / (10 + t) is at least `decay`."""
    steps = max(1, math.floor((10 * decay - 1) / (1 - decay)))
    while (1 + steps) / (10 + steps) < decay:  # the quotient is rounded, and that of long decays the most
        steps += 1
    return steps


def initial_share(decay, start, updates):
    """The share of the initial weights in the shadow after `updates` updates: the product of the decays."""
    if start == "unbiased":
        return 0.0 if updates else 1.0
    if start == "initial":
        return decay**updates
    until = min(updates, warmup_steps(decay), 10**5)  # the share falls like t^-9: after so many it is none
    t = np.arange(1, until + 1)
    return float(np.prod(np.minimum(decay, (1 + t) / (10 + t)))) * decay ** (updates - until)


# ---------------------------------------------------------------------------------------------------------------
# The averages of one run


class Average(NamedTuple):
    """One decay: the EMA of the weights and, where asked for, that of the batch statistics."""

    name: str
    schedule: Callable  # update number to decay
    decay: float | tf.Variable  # what the shadows are updated with: the guide's constant, or the schedule's value
    weights_ema: tf.train.ExponentialMovingAverage
    stats_ema: tf.train.ExponentialMovingAverage


def make_average(name, schedule, suffix=""):
    """Makes an `Average`.

    Args:
      name: of the average, in labels.
      schedule: from the update number (int64 tensor) to the decay: a number, or a tensor.
      suffix: makes the names of its variables unique.
    """
    decay = schedule(tf.constant(1, tf.int64))
    if not isinstance(decay, float):
        # The shadows are updated inside a loop on the device, and a variable carries each update's decay to them.
        decay = tf.get_variable(f"ema_decay{suffix}", [], initializer=tf.zeros_initializer(), trainable=False)
    shadow_name = shadow_suffix(suffix)
    return Average(
        name,
        schedule,
        decay,
        tf.train.ExponentialMovingAverage(decay, name=shadow_name),
        tf.train.ExponentialMovingAverage(decay, name=shadow_name),
    )


def shadow_suffix(suffix=""):
    """What comes after the name of a variable in that of its shadow; `suffix` is "" for the primary decay."""
    return f"ExponentialMovingAverage{suffix}"


def decay_suffix(decay, index):
    """The suffix of a decay's variables, by its place among the decays of the run: the first has the guide's names."""
    return f"_{decay}" if index else ""


class MovingAverages:
    """All averages of a run, updated together.

    Args:
      decays: as text, which names them; the first is the primary one.
      start: one of STARTS.
      policies: some of BATCH_STATS; with "averaged" the batch statistics are averaged like the weights.
      widths: relative widths of the power-function averages to keep too.
    """

    def __init__(self, decays, start="initial", policies=("raw",), widths=None):
        self.start, self.with_statistics = start, "averaged" in policies
        self.updates = tf.get_variable("ema_updates", [], tf.int64, initializer=tf.zeros_initializer(), trainable=False)
        self.decays = {
            decay: make_average(
                decay, functools.partial(scheduled_decay, float(decay), start), decay_suffix(decay, index)
            )
            for index, decay in enumerate(decays)
        }
        self.power_averages = [
            make_average(f"{w:g}", functools.partial(power_decay, w), f"_power_{w:g}") for w in widths or []
        ]

    def averages_for(self, label, batch_stats):
        """What keeps the variables that a test classifier reads in place of the raw network's.

        Args:
          label: training.labels.Label of the classifier; nothing is kept for the raw one.
          batch_stats: the raw network's.

        Returns:
          List of tf.train.ExponentialMovingAverage and the like, for `ema_getter`.
        """
        one = self.decays[label.decay] if label.weights == "ema" else None
        found = [one.weights_ema] if one else []
        if label.statistics == "averaged":
            found.append(one.stats_ema)
        if label.statistics == "recomputed":
            found.append(Recomputed(label, batch_stats))
        return found

    def initial_share(self, decay, updates):
        """The share of the initial weights in the shadow of a decay, as text, after so many updates."""
        return initial_share(float(decay), self.start, updates)

    def describe(self, total_steps, epoch_steps):
        """Texts for the log: what the decays mean for a run of so many steps, and which are too long for it."""
        horizons = {decay: 1 / (1 - float(decay)) for decay in self.decays}
        lines = [
            f"decay {decay}, start {self.start}: horizon {horizon:.4g} steps = {horizon / epoch_steps:.2g} epochs"
            for decay, horizon in horizons.items()
        ]
        warming = {decay: warmup_steps(float(decay)) for decay in self.decays if self.start == "warmup"}
        alike = [decay for decay, steps in warming.items() if steps > total_steps / 2]
        if len(alike) > 1:
            lines.append(
                f"until step {min(total_steps, *map(warming.get, alike)):,} of {total_steps:,} warmup makes the "
                f"averages of decays {', '.join(alike)} the same: use --ema_start unbiased"
            )
        elif alike and warming[alike[0]] > total_steps:
            lines.append(f"until step {warming[alike[0]]:,} warmup makes the average of decay {alike[0]} a shorter one")
        for decay in self.decays:
            if (share := self.initial_share(decay, total_steps)) > 0.01:
                lines.append(
                    f"warning: {share:.0%} of the average of decay {decay} will still be the initial weights after "
                    f"{total_steps} steps: train longer, average over less, or use --ema_start warmup"
                )
        return lines

    def apply(self, var_list, batch_stats):
        """Updates every shadow.

        Args:
          var_list, batch_stats: the trainable variables, and the batch statistics, which only "averaged" averages.

        Returns:
          A tensor that depends on the updates.
        """

        def update(strategy):
            with tf.control_dependencies([self._update(var_list, batch_stats)]):
                return tf.constant(True)

        # Once for all replicas, whose weights are the same: done on each, it would reduce over all of them every time.
        return tf.distribute.get_replica_context().merge_call(update)

    def _update(self, var_list, batch_stats):
        t = self.updates.assign_add(1, read_value=True)
        operations = [t]
        for one in [*self.decays.values(), *self.power_averages]:
            constant = isinstance(one.decay, float)
            set_decay = [] if constant else [one.decay.assign(tf.cast(one.schedule(t), tf.float32))]
            with tf.control_dependencies(set_decay):
                operations.append(one.weights_ema.apply(var_list))
                if self.with_statistics:
                    operations.append(one.stats_ema.apply(batch_stats))
        return tf.group(operations)


# ---------------------------------------------------------------------------------------------------------------
# Batch statistics for the averaged weights

BATCH_STATS = ("raw", "averaged", "recomputed")


class Recomputed:
    """Batch statistics of a classifier's own, which `ema_getter` hands out like averages.

    They are local variables: every evaluation computes them anew, so no checkpoint needs them.

    Args:
      label: the classifier's, in their names.
      batch_stats: the raw network's.
    """

    def __init__(self, label, batch_stats):
        # Made here and not by the first call of the network: that may come in a loop on the device, and a variable made
        # inside a loop is read there once, before the first iteration.
        self.own = {
            variable.ref(): tf.get_variable(
                f"recomputed/{label}/{variable.op.name}",
                variable.shape,
                initializer=tf.zeros_initializer(),
                trainable=False,
                collections=[tf.GraphKeys.LOCAL_VARIABLES],
            )
            for variable in batch_stats
        }

    def average(self, variable):
        """As of tf.train.ExponentialMovingAverage: what is handed out in place of `variable`, or None."""
        return self.own.get(variable.ref())


def recompute(network, batch, batches):
    """Recomputes a classifier's batch statistics: the mean of those of `batches` batches of training images.

    Each batch norm sees what the layers before it give when they use the statistics of the batch, as in training, but
    without dropout, which is off at test time too.

    Args:
      network: the classifier; its statistics are those that a `Recomputed` keeps for it or, without one, the raw
        network's own. Called in its training phase, with internal_update=True.
      batch: function from the index of a batch (int64 scalar) to images [N, H, W, C] float32.
      batches: how many, at least 1.

    Returns:
      The operation that does it.
    """

    def body(index):
        seen = tf.cast(index, tf.float32)
        logits = network(
            batch(index),
            phase=True,
            reuse=True,
            internal_update=True,
            dropout_rate=0.0,
            momentum=seen / (seen + 1),  # cumulative mean: the first batch counts in full
        )
        with tf.control_dependencies([logits]):
            return index + 1

    last = tf.while_loop(lambda index: index < batches, body, [tf.constant(0, tf.int64)], parallel_iterations=1)
    return tf.group(last)
