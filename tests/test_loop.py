"""Many steps in one session.run, and the guard against steps that are not finite, on a graph of two variables."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from training.loop import MAX_SKIPPED, build_loop

XLA = pytest.mark.parametrize("xla", [False, True], ids=["plain", "compiled"])


@XLA
@pytest.mark.parametrize("bad", [None, np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("place", ["loss", "gradient", "statistic"])
def test_update_is_done_where_all_is_finite_and_else_nothing_changes(session, initialised, bad, place, xla):
    step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
    weight, statistic = (tf.get_variable(name, [], initializer=tf.zeros_initializer()) for name in ("w", "s"))
    values = {"loss": 1.0, "gradient": [1.0, 1.0, 1.0], "statistic": 7.0}
    if bad is not None:
        values[place] = [1.0, bad, 1.0] if place == "gradient" else bad

    def update(gradients, statistics):
        changed = [weight.assign(5.0 * gradients[0][0][0]), *(variable.assign(value) for value, variable in statistics)]
        with tf.control_dependencies(changed):
            return tf.constant(True)

    def gradients_at(now):
        loss, gradient, moved = (tf.constant(values[name]) for name in ("loss", "gradient", "statistic"))
        return loss, now, [(gradient, weight)], [(statistic + moved, statistic)]

    loop = build_loop(gradients_at, update, step, xla)
    initialised()
    session.run(loop.train, {loop.until: 1})
    assert session.run([step, weight, statistic]) == [1, *([5, 7] if bad is None else [0, 0])]


class Counting:
    """A loop whose step n has loss n + 1 and n correct images, and is finite where `finite` says so."""

    def __init__(self, session, finite, xla):
        self.session = session
        self.step = tf.get_variable("step", [], tf.int64, initializer=tf.zeros_initializer())
        finite = tf.constant(finite)

        def gradients_at(now):
            return tf.cast(now + 1, tf.float32) / tf.where(finite[now], 1.0, 0.0), now, [], []

        self.loop = build_loop(gradients_at, lambda *_: tf.constant(True), self.step, xla)

    def train(self, until):
        return self.session.run(self.loop.train, {self.loop.until: until})


@XLA
def test_loop_runs_up_to_a_step_and_sums_what_is_finite(session, initialised, xla):
    finite = [True, True, False, True, False]
    counting = Counting(session, finite, xla)
    initialised()
    assert counting.train(2).step == 2
    progress = counting.train(5)
    assert (progress.step, progress.skipped_in_a_row) == (5, 1)
    assert progress.loss == 4  # of the one finite step among the three
    assert session.run(counting.step) == 5
    totals = session.run(counting.loop.totals)
    assert (totals.loss, totals.correct, totals.skipped) == (1 + 2 + 4, 0 + 1 + 3, 2)
    assert counting.train(5).step == 5  # nothing is left to do
    session.run(counting.loop.reset)
    assert session.run(counting.loop.totals) == (0, 0, 0)


@XLA
def test_loop_ends_after_so_many_steps_in_a_row_and_one_finite_step_begins_the_count_anew(session, initialised, xla):
    skipped = MAX_SKIPPED
    counting = Counting(session, [False] * (skipped - 1) + [True] + [False] * (skipped + 5), xla)
    initialised()
    progress = counting.train(2 * skipped + 5)
    assert (progress.step, progress.skipped_in_a_row) == (2 * skipped, skipped)
    assert session.run(counting.loop.totals).skipped == 2 * skipped - 1
