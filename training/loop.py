"""Many steps in one session.run: a loop on the device, and the guard against steps that are not finite."""

from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training import replicas

MAX_SKIPPED = 10  # steps in a row without a finite loss and gradients end the loop


class LoopResult(NamedTuple):
    """What one session.run of the loop returns."""

    step: int
    skipped_in_a_row: int
    loss: float  # mean over the finite steps of this session.run, nats; NaN where there were none


class Totals(NamedTuple):
    """Sums over the steps since `Loop.reset`; those of loss and correct answers are over finite steps alone."""

    loss: tf.Variable  # float32
    correct: tf.Variable  # int64
    skipped: tf.Variable  # int64


class Loop(NamedTuple):
    """What to run: session.run(loop.train, {loop.until: step}) returns a LoopResult."""

    until: tf.Tensor  # placeholder: `train` stops at this step
    train: LoopResult  # of tensors; fetching it trains, from the current step on
    totals: Totals
    reset: tf.Operation


def all_finite(values):
    """Scalar bool: whether every element of the tensors in `values` is finite."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def build_loop(gradients_at, update, step, xla):
    """The loop over training steps, from the current one up to a placeholder, on one device or on all replicas.

    A step is `gradients_at` and then, if everything that this returns is finite, `update`. A step that is not finite is
    counted and changes nothing else: a NaN in a weight, an average or a batch statistic would stay there for ever.

    Args:
      gradients_at: function from the step (int64 scalar) to (loss, correct, gradients, statistics): the mean loss of
        its batch, the number of images (int64) that are classified right, and lists of (gradient, variable) and of
        (new value, variable).
      update: function from gradients and statistics to a tensor that depends on the update.
      step: int64 variable, counts the steps.
      xla: compile the whole loop into one program. A step on a GPU is so short that launching its hundreds of kernels
        one by one would dominate; on a CPU the plain kernels are many times faster than XLA's.

    Returns:
      Loop.
    """
    in_a_row = _counter("skipped_in_a_row")
    totals = Totals(_counter("loss_sum", tf.float32), _counter("correct_sum"), _counter("skipped_sum"))

    def compute_checked(now):
        loss, correct, gradients, statistics = gradients_at(now)
        finite = all_finite([loss, *(value for value, _ in gradients + statistics)])
        return finite, loss, correct, gradients, statistics

    compute, update = replicas.replicate_step(compute_checked, update)  # on one device they stay as they are

    def body(now, in_a_row, losses, corrects, skipped):
        finite, loss, correct, gradients, statistics = compute(now)
        updated = tf.cond(finite, lambda: update(gradients, statistics), lambda: tf.constant(True))
        with tf.control_dependencies([updated]):
            counted = step.assign_add(1)
        with tf.control_dependencies([counted]):
            one = tf.cast(finite, tf.int64)  # 0 for a step that is skipped
            return (
                now + 1,
                (in_a_row + 1) * (1 - one),
                losses + tf.where(finite, loss, 0.0),
                corrects + correct * one,
                skipped + 1 - one,
            )

    def run(until):
        start, *sums = [variable.read_value() for variable in (step, in_a_row, *totals)]
        before = Totals(*sums[1:])
        now, skipped_in_a_row, *sums = tf.while_loop(
            lambda now, in_a_row, *_: (now < until) & (in_a_row < MAX_SKIPPED),
            body,
            [start, *sums],
            parallel_iterations=1,  # the reads of a step must see the writes of the one before
        )
        after = Totals(*sums)
        updates = [variable.assign(value) for variable, value in zip(totals, after, strict=True)]
        finite_steps = tf.cast(now - start - (after.skipped - before.skipped), tf.float32)
        with tf.control_dependencies([*updates, in_a_row.assign(skipped_in_a_row)]):
            return tf.identity(now), tf.identity(skipped_in_a_row), (after.loss - before.loss) / finite_steps

    until = tf.placeholder(tf.int64, [], name="until")
    train = tf2.function(run, jit_compile=True, autograph=False)(until) if xla else run(until)
    reset = tf.group([variable.assign(tf.zeros_like(variable)) for variable in totals])
    return Loop(until, LoopResult(*train), totals, reset)


def _counter(name, dtype=tf.int64):
    return tf.get_variable(name, [], dtype, initializer=tf.zeros_initializer(), trainable=False)
