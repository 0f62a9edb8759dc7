"""The training loop on the device: sums, skipped steps and its end, on a graph of two variables."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from training.loop import MAX_SKIPPED, StepResult, build_loop

XLA = pytest.mark.parametrize("xla", [False, True], ids=["plain", "compiled"])


@XLA
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("place", ["loss", "gradient", "statistic"])
def test_non_finite_step_changes_nothing(session, initialised, bad, place, xla):
    step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
    weight, statistic = (tf.get_variable(name, [], initializer=tf.zeros_initializer()) for name in ("w", "s"))
    values = {"loss": 1.0, "gradient": [1.0, 1.0, 1.0], "statistic": 7.0}
    if bad is not None:
        values[place] = [1.0, bad, 1.0] if place == "gradient" else bad

    def compute(step):
        loss, gradient, moved = (tf.constant(values[name]) for name in ("loss", "gradient", "statistic"))
        return StepResult(loss, step, [(gradient, weight)], [(statistic + moved, statistic)])

    def update(gradients, statistics):
        changed = [weight.assign(5.0 * gradients[0][0][0]), *(variable.assign(value) for value, variable in statistics)]
        with tf.control_dependencies(changed):
            return tf.constant(True)

    loop = build_loop(compute, update, step, xla)
    initialised()
    session.run(loop.train, {loop.until: 1})
    assert session.run([step, weight, statistic]) == [1, *([5, 7] if bad is None else [0, 0])]


class CountingLoop:
    """Step n has loss n + 1 and n correct images, and is finite if finite[n]."""

    def __init__(self, session, finite, xla):
        self.session = session
        self.step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
        finite = tf.constant(finite)

        def compute(step):
            loss = tf.cast(step + 1, tf.float32) / tf.where(finite[step], 1.0, 0.0)
            return StepResult(loss, step, [], [])

        self.loop = build_loop(compute, lambda *_: tf.constant(True), self.step, xla)

    def train(self, until):
        return self.session.run(self.loop.train, {self.loop.until: until})


@XLA
def test_sums_leave_out_skipped_steps(session, initialised, xla):
    finite = np.array([True, True, False, True, False])
    counting = CountingLoop(session, finite, xla)
    initialised()
    assert counting.train(2).step == 2
    result = counting.train(5)
    assert (result.step, result.skipped_in_a_row) == (5, 1)
    assert result.loss == 4  # of the one finite step among the three
    assert session.run(counting.step) == 5
    totals, steps = session.run(counting.loop.totals), np.arange(5)
    assert totals.loss == (steps + 1)[finite].sum()
    assert totals.correct == steps[finite].sum()
    assert totals.skipped == (~finite).sum()
    assert counting.train(5).step == 5  # nothing to do
    session.run(counting.loop.reset)
    assert session.run(counting.loop.totals) == (0, 0, 0)


@XLA
def test_loop_ends_after_skips_in_a_row(session, initialised, xla):
    finite = [False] * (MAX_SKIPPED - 1) + [True] + [False] * (MAX_SKIPPED + 5)
    counting = CountingLoop(session, finite, xla)
    initialised()
    result = counting.train(2 * MAX_SKIPPED + 5)
    assert (result.step, result.skipped_in_a_row) == (2 * MAX_SKIPPED, MAX_SKIPPED)
    assert session.run(counting.loop.totals).skipped == 2 * MAX_SKIPPED - 1
