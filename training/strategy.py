"""Data-parallel training: one step on several replicas, by TensorFlow's own distribution strategies.

`build` of train.py calls these functions whatever --strategy is. They ask which strategy's scope they are in, and on
one device they add nothing to the graph. Of several replicas each has a copy of every variable and takes its part of
the global batch; all copies are the same after every step:

    gradients         the mean over the global batch
    batch statistics  computed on each replica's part; the moving averages are the mean over the replicas'
    shadows           moved once a step, from the same weights by the same decay on every replica
    not finite        anywhere: the step changes nothing anywhere

Two things of tf.distribute shape this file. Variables, slots and shadows must exist before the loop on the device is
built. And whatever reduces (merge_call) cannot stand in a tf.cond on a replica, so that the guard's condition is built
for all replicas at once, and its branch runs on them again.
"""

import math

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training import device, device_loop
from training.stderr import captured_stderr

SUM, MEAN = tf2.distribute.ReduceOp.SUM, tf2.distribute.ReduceOp.MEAN
INITIAL = "initial_values"  # graph collection of dicts, variable name to array


def count():
    """How many replicas there are, on every machine together."""
    return tf2.distribute.get_strategy().num_replicas_in_sync


def this_replica():
    """(index, count) of the replica that the graph is being built for."""
    index = tf2.distribute.get_replica_context().replica_id_in_sync_group  # a constant tensor, of several replicas
    return int(tf2.get_static_value(index)), count()


def everywhere(function, *args):
    """`function(*args)` on every replica, each with its own part of args; one operation that waits for them all."""
    if count() == 1:
        return function(*args)
    strategy = tf2.distribute.get_strategy()
    return tf.group(strategy.experimental_local_results(strategy.run(function, args)))


# ---------------------------------------------------------------------------------------------------------------
# Variables


def make_variables(make, seed):
    """Calls `make()`, whose variables then start on any number of replicas with the values that one device gives them.

    A variable's random seed comes of the number of operations made before it, of which several replicas need more.
    """
    if count() > 1:
        tf.add_to_collection(INITIAL, _made_on_one_device(make, seed))
    make()


def _made_on_one_device(make, seed):
    """The initial values of the variables that `make()` makes: name to array."""
    with tf.Graph().as_default():  # out of the strategy's scope
        tf.set_random_seed(seed)
        make()
        with device.session() as session, captured_stderr():
            session.run(tf.global_variables_initializer())
            return session.run({variable.op.name: variable for variable in tf.global_variables()})


def initial_feeds():
    """What the initializers of the default graph need on several replicas: tensor to array."""
    values = {name: value for values in tf.get_collection(INITIAL) for name, value in values.items()}
    feeds = {}
    for variable in tf.global_variables() if values else []:
        name = variable.op.name.split("/ExponentialMovingAverage")[0]  # a shadow begins as its variable
        if name in values:
            feeds[primary(variable).initializer.inputs[1]] = values[name]
    return feeds


def make_slots(update, var_class):
    """Makes what `update` makes at its first call, slots and shadows, before the loop that it will be in."""
    if count() > 1:
        zeros = tf2.distribute.get_strategy().run(lambda: [(tf.zeros(v.shape), v) for v in var_class])
        update(zeros)


def local_once(next_creator, **kwargs):
    """For tf.variable_creator_scope in a strategy's: each process has one of a local variable, not one a replica.

    Those are the data on the device. Mirrored they would be sent from the chief to every worker at the start, and not
    at all where they are of uint8.
    """
    if tf.GraphKeys.LOCAL_VARIABLES not in (kwargs["collections"] or []):
        return next_creator(**kwargs)
    with tf.Graph().as_default():  # out of the strategy's scope, where a variable is a plain one
        plain = type(tf.get_variable("plain", []))
    return plain(**{key: kwargs[key] for key in ("initial_value", "name", "trainable", "collections")})


def primary(variable):
    """The first copy of a variable in this process; it has the name that the variable has on one device."""
    return tf2.distribute.get_strategy().experimental_local_results(variable)[0]


class Saver(tf.train.Saver):
    """Saves the first copy of every global variable, as on one device, and restores them all."""

    def __init__(self):
        copies = [tf2.distribute.get_strategy().experimental_local_results(v) for v in tf.global_variables()]
        super().__init__([first for first, *_ in copies], max_to_keep=None)
        self.spread = tf.group([other.assign(first) for first, *others in copies for other in others])

    def restore(self, session, path):
        super().restore(session, path)
        session.run(self.spread)


# ---------------------------------------------------------------------------------------------------------------
# A step


def on_replicas(train_step):
    """A function that does `train_step` on every replica; its device_loop.Step is that of the global batch.

    Args:
      train_step: function from the step (int64 scalar) to the device_loop.Step of a replica's part of the batch.
    """
    if count() == 1:
        return train_step

    def replica_step(now):
        step = train_step(now)
        totals = all_reduce(SUM, [step.loss, tf.cast(step.correct, tf.float32)])  # exact: counts are far below 2^24
        return device_loop.Step(totals[0] / count(), tf.cast(totals[1], tf.int64), step.finite)

    def step(now):
        strategy = tf2.distribute.get_strategy()
        by_replica = strategy.run(replica_step, [now])
        return device_loop.Step(*(strategy.experimental_local_results(value)[0] for value in by_replica))

    return step


def all_reduce(operation, values):
    """`values`, a list of tensors, reduced over the replicas, from within one of them."""

    def reduce(strategy, *values):  # in one message; ReplicaContext.all_reduce would look for gradients and fail
        everywhere = values[0] if len(devices := strategy.extended.worker_devices) > 1 else devices[0]
        return strategy.extended.batch_reduce_to(operation, [(value, everywhere) for value in values])

    return tf2.distribute.get_replica_context().merge_call(reduce, values)


def update_if_finite(loss, gradients, update, batch_stats, before):
    """Does `update(gradients)` where the loss and the gradients are finite on every replica; else nothing is changed.

    Args:
      loss, gradients: of a replica; as of Optimizer.compute_gradients.
      update: function from gradients, those of all replicas together, to a tensor that depends on the update.
      batch_stats, before: what was changed already, and what device_loop.remember gave.

    Returns:
      Scalar bool: whether all are finite everywhere; available when it is done.
    """
    values = [loss, *(gradient for gradient, _ in gradients)]
    if count() == 1:
        return device_loop.update_if_finite(values, lambda: update(gradients), batch_stats, before)
    own = 1 - tf.cast(device_loop.all_finite(values), tf.float32)
    bad, *means = all_reduce(MEAN, [own, *device_loop.remember(batch_stats)])
    finite = tf.equal(bad, 0)
    # The statistics are the same on all replicas after each step, and not only where they are read, so that a
    # checkpoint, which holds one copy, is all that a resumed run needs.
    kept = [v.assign(tf.where(finite, mean, old)) for v, mean, old in zip(batch_stats, means, before, strict=True)]
    shares = [(gradient / count(), variable) for gradient, variable in gradients]  # the optimiser adds them up

    def guard(strategy, finite, gradients):
        finite = strategy.experimental_local_results(finite)[0]
        return tf.cond(finite, lambda: update(gradients), lambda: tf.constant(True))

    with tf.control_dependencies(kept):
        done = tf2.distribute.get_replica_context().merge_call(guard, [finite, shares])
    with tf.control_dependencies([done]):
        return tf.identity(finite)


# ---------------------------------------------------------------------------------------------------------------
# Evaluation


def in_parts(map_images, function, images, batch_size):
    """data.map_images(function, images, batch_size), [N, K] float32; each replica does some rows, and all get all."""
    if count() == 1:
        return map_images(function, images, batch_size)
    size = int(images.shape[0])

    def part():
        index, replicas = this_replica()
        share = math.ceil(size / replicas)
        first, end = min(index * share, size - 1), min((index + 1) * share, size)
        rows = map_images(function, images, batch_size, first, end)
        rows = rows[: max(0, end - index * share)]  # of more replicas than rows the last have none
        # Adding zeros changes no number.
        return all_reduce(SUM, [tf.pad(rows, [[min(index * share, size), size - end], [0, 0]])])[0]

    strategy = tf2.distribute.get_strategy()
    return strategy.experimental_local_results(strategy.run(part))[0]
