"""Many steps in one session.run: a loop on the device, and the guard against steps that are not finite."""

from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

MAX_SKIPPED = 10  # steps in a row without a finite loss and gradients end the loop


class Step(NamedTuple):
    """What one training step gives; available when all that the step changes is changed."""

    loss: tf.Tensor  # scalar float32, nats
    correct: tf.Tensor  # scalar int64, images of the batch that were classified right
    finite: tf.Tensor  # scalar bool; a step that is not finite changes nothing but the count of steps


class Progress(NamedTuple):
    """What one session.run of the loop comes to."""

    step: int
    skipped_in_a_row: int
    loss: float  # mean over the finite steps of this session.run, nats; NaN where there were none


class Totals(NamedTuple):
    """Sums over the steps since `Loop.reset`; those of loss and correct answers are over finite steps alone."""

    loss: float
    correct: int
    skipped: int


class Loop(NamedTuple):
    until: tf.Tensor  # placeholder: `train` stops at this step
    train: Progress  # runs steps, from the current one
    totals: Totals
    reset: tf.Operation


def remember(variables):
    """The values that `variables` have now."""
    return [variable.read_value() for variable in variables]


def all_finite(values):
    """Scalar bool: whether every element of the tensors in `values` is finite."""
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def update_if_finite(values, update, variables, before):
    """Does `update` where all `values` are finite, else gives `variables` the values of `before` back.

    One NaN that gets into a weight, an average or a batch statistic stays there for ever.

    Args:
      values: tensors, of any float dtype and shape.
      update: function without arguments that builds the update and returns a tensor that depends on it.
      variables, before: what was changed already, and what `remember` gave.

    Returns:
      Scalar bool: whether all are finite; available when it is done.
    """
    finite = all_finite(values)

    def put_back():
        assigned = [variable.assign(value) for variable, value in zip(variables, before, strict=True)]
        with tf.control_dependencies(assigned):
            return tf.constant(True)

    with tf.control_dependencies([tf.cond(finite, update, put_back)]):
        return tf.identity(finite)


def build_loop(one_step, step, xla):
    """The loop over `one_step`, from the current step up to a placeholder.

    Args:
      one_step: function from the step (int64 scalar) to a `Step`.
      step: int64 variable, counts the steps.
      xla: compile the whole loop into one program. A step on a GPU is so short that launching its hundreds of kernels
        one by one would dominate; on a CPU the plain kernels are many times faster than XLA's.

    Returns:
      Loop.
    """
    in_a_row = _counter("skipped_in_a_row")
    totals = Totals(_counter("loss_sum", tf.float32), _counter("correct_sum"), _counter("skipped_sum"))

    def body(now, in_a_row, losses, corrects, skipped):
        loss, correct, finite = one_step(now)
        counts = tf.cast(finite, tf.int64)
        return (
            now + 1,
            (in_a_row + 1) * (1 - counts),
            losses + tf.where(finite, loss, 0.0),
            corrects + correct * counts,
            skipped + 1 - counts,
        )

    def run(until):
        # One iteration at a time: the reads of the next must see the writes of this one.
        before = remember((step, in_a_row, *totals))
        now, *sums = tf.while_loop(
            lambda now, in_a_row, *_: (now < until) & (in_a_row < MAX_SKIPPED), body, before, parallel_iterations=1
        )
        updates = [variable.assign(total) for variable, total in zip((in_a_row, *totals), sums, strict=True)]
        counted = tf.cast(now - before[0] - (sums[3] - before[4]), tf.float32)
        with tf.control_dependencies(updates):
            return tf.identity(now), tf.identity(sums[0]), (sums[1] - before[2]) / counted

    until = tf.placeholder(tf.int64, [], name="until")
    train = tf2.function(run, jit_compile=True, autograph=False)(until) if xla else run(until)
    reset = tf.group([variable.assign(tf.zeros_like(variable)) for variable in totals])
    return Loop(until, Progress(*train), totals, reset)


def _counter(name, dtype=tf.int64):
    return tf.get_variable(name, [], dtype, initializer=tf.zeros_initializer(), trainable=False)
