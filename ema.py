"""Exponential moving averages of the weights: the guide's getter, decay schedules, and the averages of a run.

The guide's recipe, without its race between the step and the average:

    ema = tf.train.ExponentialMovingAverage(decay=0.998)
    with tf.control_dependencies([train_op]):       # strictly after the optimizer's step
        ema_op = ema.apply(var_class)
    ema_logits = classifier(x, phase=False, reuse=True, getter=ema_getter(ema))
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

VARIABLE_OPS = {"VarHandleOp", "VariableV2", "Variable"}  # of resource and of reference variables


def ema_getter(*emas):
    """Returns the guide's custom getter: the shadow of a variable if one of `emas` has it, else the variable itself.

    Args:
      emas: tf.train.ExponentialMovingAverage objects, already applied to some variables; the guide has one.

    Returns:
      A function for `tf.variable_scope(custom_getter=...)`. It raises ValueError for partitioned variables, because
      they have no shadows.
    """

    def getter(getter, name, *args, **kwargs):  # TensorFlow passes the first argument by this keyword
        if kwargs.get("partitioner") is not None:
            raise ValueError(f"{name} has a partitioner, but partitioned variables have no moving averages")
        variable = getter(name, *args, **kwargs)
        for ema in emas:
            shadow = ema.average(variable)
            if shadow is not None:  # a resource variable has no truth value in a graph
                return shadow
        return variable

    getter.emas = emas
    getter.existing = {op.name for op in tf.get_default_graph().get_operations() if op.type in VARIABLE_OPS}
    return getter


def check_replaced(getter, var_list, output):
    """Checks that `output` reads the shadows of exactly `var_list`, by a walk over the graph.

    Without this check, an "EMA" network may silently equal the raw network, in part or in whole.

    Args:
      getter: made by `ema_getter` after `ema.apply`, before the EMA network was built.
      var_list: the variables that are averaged.
      output: a tensor of the EMA network that depends on all of its variables, such as its logits.

    Raises:
      ValueError: names a variable and the cause: it has no moving average, it has a cached value, `output` reads it
        raw, does not read its average, or reads it although the EMA network created it.
    """
    read = _variable_ops_read(output)
    if created := read - getter.existing:
        raise ValueError(
            f"the EMA network created {min(created)} instead of reusing it: build both networks in the same named "
            "variable scope, the second one with reuse=True, and create variables with tf.get_variable"
        )
    for variable in var_list:
        name, shadow = variable.op.name, _average(getter.emas, variable)
        if shadow is None:
            raise ValueError(f"{name} has no moving average: pass it to ema.apply")
        if getattr(variable, "_cached_value", None) is not None:
            raise ValueError(
                f"{name} has a cached value, so ema.apply averages its value before the step: create it without "
                "caching_device; for tf.nn.dynamic_rnn, call cell.build(shape) first"
            )
        if read & _op_names(variable):
            raise ValueError(
                f"the EMA network reads {name} itself, not its average: it uses a tensor or a layer object of the "
                "first network, which bypasses the getter"
            )
        if not read & _op_names(shadow):
            raise ValueError(f"the EMA network does not read the average of {name}: remove it from var_list")
    expected = {variable.ref() for variable in var_list}
    for variable in [*tf.global_variables(), *tf.local_variables()]:
        shadow = None if variable.ref() in expected else _average(getter.emas, variable)
        if shadow is not None and read & _op_names(shadow):
            raise ValueError(f"the EMA network reads the average of {variable.op.name}, which is not in var_list")


def _average(emas, variable):
    """Returns the first shadow of a variable, or None."""
    return next((shadow for ema in emas if (shadow := ema.average(variable)) is not None), None)


def _op_names(variable):
    """Returns the names of the operations that hold a variable: one per replica of this process."""
    copies = tf.distribute.get_strategy().experimental_local_results(variable)
    return {getattr(copy, "handle", copy).op.name for copy in copies}


def _variable_ops_read(output):
    """Returns the names of the variable operations that a tensor depends on, also through loops and functions."""
    seen, queue = set(), [output.op]
    while queue:
        op = queue.pop()
        if op not in seen:
            seen.add(op)
            queue.extend(tensor.op for tensor in op.inputs)
    return {op.name for op in seen if op.type in VARIABLE_OPS}


# ---------------------------------------------------------------------------------------------------------------
# Decay schedules. To add a start of the average, write a subclass of InitialStart and enter it in STARTS.


class InitialStart(NamedTuple):
    """The guide's constant decay b: after n updates, b^n of the shadow is still the initial weights."""

    b: float  # in [0, 1)

    def decay(self, t):
        """Returns the decay of update t, a float or a float64 scalar tensor.

        Args:
          t: integer scalar tensor, counted from 1.
        """
        return self.b

    def initial_share(self, n):
        """Returns the share of the initial weights in the shadow after n updates: the product of their decays."""
        return self.b**n

    def warmup_steps(self):
        """Returns the first update at which a warmup no longer limits the decay; 0 without warmup."""
        return 0


class WarmupStart(InitialStart):
    """min(b, (1 + t) / (10 + t)), as tf.train.ExponentialMovingAverage does with num_updates."""

    def decay(self, t):
        t = tf.cast(t, tf.float64)
        return tf.minimum(tf.constant(self.b, tf.float64), (1 + t) / (10 + t))

    def warmup_steps(self):
        steps = max(1, math.floor((10 * self.b - 1) / (1 - self.b)))
        while (1 + steps) / (10 + steps) < self.b:  # rounding may leave the quotient too small
            steps += 1
        return steps

    def initial_share(self, n):
        limited = min(n, self.warmup_steps(), 10**5)  # the share falls like t^-9, so later updates do not matter
        t = np.arange(1, limited + 1)
        return float(np.prod(np.minimum(self.b, (1 + t) / (10 + t)))) * self.b ** (n - limited)


class UnbiasedStart(InitialStart):
    """b (1 - b^(t-1)) / (1 - b^t): the shadow is exactly (ema - w0 b^t) / (1 - b^t), without the initial weights w0.

    This is Adam's bias correction (Kingma & Ba 2015) for a shadow that starts at w0.
    """

    def decay(self, t):
        t = tf.cast(t, tf.float64)
        log_b = math.log(self.b)  # expm1 keeps every digit of 1 - b^t when b is near 1 and t is small
        return self.b * tf.math.expm1((t - 1) * log_b) / tf.math.expm1(t * log_b)

    def initial_share(self, n):
        return 0.0 if n else 1.0


STARTS = {"initial": InitialStart, "warmup": WarmupStart, "unbiased": UnbiasedStart}


class PowerFunction(NamedTuple):
    """A power-function average: decay (1 - 1/t)^(gamma + 1) (Karras et al. 2024, eq. 4), 0 at t = 1."""

    std: float  # relative standard deviation sigma_rel of the averaging profile, in (0, 0.28)

    def decay(self, t):
        return (1 - 1 / tf.cast(t, tf.float64)) ** (power_gamma(self.std) + 1)


def power_gamma(std):
    """Returns gamma of a power-function average (Karras et al. 2024, eq. 5 and algorithm 2).

    The profile tau^gamma over tau in [0, 1] has variance (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = std^2.
    """
    roots = np.roots([1, 7, 16 - std**-2, 12 - std**-2])
    return float(roots[np.abs(roots.imag) < 1e-9].real.max())


# ---------------------------------------------------------------------------------------------------------------
# The averages of a run


class Average(NamedTuple):
    """The moving averages of one decay."""

    name: str
    schedule: InitialStart | PowerFunction
    decay: float | tf.Variable  # a constant, or a variable with the decay of the current update
    weights_ema: tf.train.ExponentialMovingAverage
    stats_ema: tf.train.ExponentialMovingAverage  # of the batch statistics; used only with the policy "averaged"


def make_average(name, schedule, suffix=""):
    """Returns an Average named `name`; `suffix` makes the names of its variables unique."""
    decay = schedule.decay(tf.constant(1, tf.int64))
    if not isinstance(decay, float):
        # A variable, because tf.train.ExponentialMovingAverage fixes its decay before the loop on the device starts.
        decay = tf.get_variable(f"ema_decay{suffix}", [], initializer=tf.zeros_initializer(), trainable=False)
    emas = [tf.train.ExponentialMovingAverage(decay, name=shadow_suffix(suffix)) for _ in ("weights", "statistics")]
    return Average(name, schedule, decay, *emas)


def shadow_suffix(suffix=""):
    """Returns the last part of a shadow's name, which follows the name of the variable."""
    return f"ExponentialMovingAverage{suffix}"


def decay_suffix(decay, index):
    """Returns the suffix of a decay's variables; the first decay of a run has the guide's names, without a suffix."""
    return f"_{decay}" if index else ""


class MovingAverages:
    """All averages of a run, updated together.

    Args:
      decays: list of str, which name the averages; the first average is the primary one.
      start: a name in STARTS.
      policies: "averaged" in it averages the batch statistics like the weights.
      stds: of the power-function averages to track too.
    """

    def __init__(self, decays, start="initial", policies=("raw",), stds=()):
        self.start, self.with_statistics = start, "averaged" in policies
        self.updates = tf.get_variable("ema_updates", [], tf.int64, initializer=tf.zeros_initializer(), trainable=False)
        self.decays = {}  # text to Average
        for index, decay in enumerate(decays):
            start_class = STARTS[start] if float(decay) else InitialStart  # without memory, every start is the same
            self.decays[decay] = make_average(decay, start_class(float(decay)), decay_suffix(decay, index))
        self.power_averages = [make_average(f"{s:g}", PowerFunction(s), f"_power_{s:g}") for s in stds or ()]

    def averages_for(self, label, batch_stats):
        """Returns the averages to pass to `ema_getter` for a test classifier; none for the raw network.

        Args:
          label: names the classifier by its attributes weights ("raw" or "ema"), decay (a text in `decays`) and
            statistics ("raw", "averaged" or "recomputed").
          batch_stats: list of the raw network's batch statistics.
        """
        emas = [self.decays[label.decay].weights_ema] if label.weights == "ema" else []
        if label.statistics == "averaged":
            emas.append(self.decays[label.decay].stats_ema)
        if label.statistics == "recomputed":
            emas.append(Recomputed(label, batch_stats))
        return emas

    def apply(self, var_list, batch_stats):
        """Updates every shadow; returns a tensor that depends on the updates.

        Args:
          var_list: the trainable variables.
          batch_stats: the batch statistics; averaged only with the policy "averaged".
        """

        def update(strategy):
            with tf.control_dependencies([self._update(var_list, batch_stats)]):
                return tf.constant(True)

        # Once for all replicas: their weights are equal, and an update on each would reduce over all of them.
        return tf.distribute.get_replica_context().merge_call(update)

    def _update(self, var_list, batch_stats):
        t = self.updates.assign_add(1, read_value=True)
        operations = [t]
        for average in [*self.decays.values(), *self.power_averages]:
            set_decay = []
            if not isinstance(average.decay, float):
                set_decay = [average.decay.assign(tf.cast(average.schedule.decay(t), tf.float32))]
            with tf.control_dependencies(set_decay):
                operations.append(average.weights_ema.apply(var_list))
                if self.with_statistics:
                    operations.append(average.stats_ema.apply(batch_stats))
        return tf.group(operations)


# ---------------------------------------------------------------------------------------------------------------
# Batch statistics for the averaged weights


class Recomputed:
    """Batch statistics recomputed for one classifier; `ema_getter` treats them like averages.

    They are local variables, because every evaluation recomputes them and no checkpoint needs them.

    Args:
      label: of the classifier, used in the names of the variables.
      batch_stats: list of the raw network's batch statistics.
    """

    def __init__(self, label, batch_stats):
        # Created before the network is built: inside a loop on the device, they would be read only once.
        options = {"trainable": False, "collections": [tf.GraphKeys.LOCAL_VARIABLES]}
        self.replacements = {}
        for variable in batch_stats:
            name, zeros = f"recomputed/{label}/{variable.op.name}", tf.zeros_initializer()
            self.replacements[variable.ref()] = tf.get_variable(name, variable.shape, initializer=zeros, **options)

    def average(self, variable):
        """Returns the replacement of `variable`, or None; named like tf.train.ExponentialMovingAverage's method."""
        return self.replacements.get(variable.ref())


def recompute(network, batch, batches):
    """Recomputes a classifier's batch statistics: their mean over `batches` batches of training images.

    As in training, each batch norm sees inputs normalised with the statistics of the batch; dropout is off.

    Args:
      network: the classifier, built with a getter for `Recomputed`; without, it changes the raw network's statistics.
        Called in its training phase, with internal_update=True.
      batch: function from the index of a batch (int64 scalar) to images [N, H, W, C] float32.
      batches: the number of batches, at least 1.

    Returns:
      The operation that recomputes them.
    """

    def body(index):
        seen = tf.cast(index, tf.float32)
        momentum = seen / (seen + 1)  # makes the moving average the mean of all batches so far
        x = batch(index)
        logits = network(x, phase=True, reuse=True, internal_update=True, dropout_rate=0.0, momentum=momentum)
        with tf.control_dependencies([logits]):
            return index + 1

    last = tf.while_loop(lambda index: index < batches, body, [tf.constant(0, tf.int64)], parallel_iterations=1)
    return tf.group(last)
