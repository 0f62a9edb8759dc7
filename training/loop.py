"""Many training steps in one session.run: a loop on the device that skips steps with non-finite values."""

from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training import replicas

MAX_SKIPPED = 10  # skipped steps in a row that end the loop


class StepResult(NamedTuple):
    """Computed by a training step before its update."""

    loss: tf.Tensor  # float32 scalar, mean over the batch, nats
    correct: tf.Tensor  # int64 scalar, correctly classified images
    gradients: list  # of (gradient, variable)
    statistics: list  # of (new value, variable): the moving averages of batch norm
    finite: tf.Tensor | None = None  # bool scalar: loss, gradients and statistics are finite


class Totals(NamedTuple):
    """Sums over the steps since `Loop.reset`; loss and correct without the skipped steps. Variables or tensors."""

    loss: tf.Variable  # float32
    correct: tf.Variable  # int64
    skipped: tf.Variable  # int64


class LoopResult(NamedTuple):
    """Returned by one session.run of the loop."""

    step: int
    skipped_in_a_row: int
    loss: float  # mean over the steps that were not skipped, nats; NaN if there were none


class Loop(NamedTuple):
    """session.run(loop.train, {loop.until: step}) trains up to a step and returns a LoopResult."""

    until: tf.Tensor  # placeholder
    train: LoopResult  # of tensors
    totals: Totals
    reset: tf.Operation


def build_loop(compute, update, global_step, xla):
    """Builds the loop over training steps, on one device or on all replicas.

    A step is `compute` and then, if its result is finite, `update`. Other steps are only counted, because a NaN would
    stay in a weight, an average or a batch statistic forever.

    Args:
      compute: function from the step (int64 scalar) to StepResult, whose `finite` is not needed.
      update: function from gradients and statistics to a tensor that depends on the update.
      global_step: int64 variable, counts the steps.
      xla: compile the whole loop. On a GPU, launching the hundreds of short kernels of a step one by one would take
        longer than running them; on a CPU, XLA's kernels are slower than TensorFlow's.

    Returns:
      Loop.
    """
    skipped_in_a_row = _counter("skipped_in_a_row")
    totals = Totals(_counter("loss_sum", tf.float32), _counter("correct_sum"), _counter("skipped_sum"))

    def compute_checked(step):
        result = compute(step)
        values = [value for value, _ in result.gradients + result.statistics]
        return result._replace(finite=all_finite([result.loss, *values]))

    compute_replicated, update = replicas.replicate_step(compute_checked, update)

    def body(step, in_a_row, sums):
        result = compute_replicated(step)
        updated = tf.cond(result.finite, lambda: update(result.gradients, result.statistics), lambda: tf.constant(True))
        with tf.control_dependencies([updated]):
            counted = global_step.assign_add(1)
        with tf.control_dependencies([counted]):
            applied = tf.cast(result.finite, tf.int64)  # 1, or 0 for a skipped step
            sums = Totals(
                loss=sums.loss + tf.where(result.finite, result.loss, 0.0),
                correct=sums.correct + result.correct * applied,
                skipped=sums.skipped + 1 - applied,
            )
            return step + 1, (in_a_row + 1) * (1 - applied), sums

    def run(until):
        start, before = global_step.read_value(), Totals(*(variable.read_value() for variable in totals))
        step, in_a_row, after = tf.while_loop(
            lambda step, in_a_row, _: (step < until) & (in_a_row < MAX_SKIPPED),
            body,
            (start, skipped_in_a_row.read_value(), before),
            parallel_iterations=1,  # a step reads what the previous one wrote
        )
        updates = [variable.assign(value) for variable, value in zip(totals, after, strict=True)]
        applied_steps = tf.cast(step - start - (after.skipped - before.skipped), tf.float32)
        with tf.control_dependencies([*updates, skipped_in_a_row.assign(in_a_row)]):
            return tf.identity(step), tf.identity(in_a_row), (after.loss - before.loss) / applied_steps

    until = tf.placeholder(tf.int64, [], name="until")
    train = tf2.function(run, jit_compile=True, autograph=False)(until) if xla else run(until)
    reset = tf.group([variable.assign(tf.zeros_like(variable)) for variable in totals])
    return Loop(until, LoopResult(*train), totals, reset)


def all_finite(values):
    """Returns a bool scalar: every element of the tensors in `values` is finite."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def _counter(name, dtype=tf.int64):
    return tf.get_variable(name, [], dtype, initializer=tf.zeros_initializer(), trainable=False)
