"""Data-parallel training, by TensorFlow's own distribution strategies.

Whoever calls these functions need not know --strategy: they ask which strategy's scope they are in, and on one device
they add nothing to the graph. Of several replicas each has a copy of every variable and takes its part of the global
batch; all copies are the same after every step:

    gradients         the mean over the global batch
    batch statistics  computed on each replica's part; the moving averages are the mean over the replicas'
    shadows           moved once a step, from the same weights by the same decay on every replica
    not finite        anywhere: the step changes nothing anywhere
"""

import math

import tensorflow as tf2
import tensorflow.compat.v1 as tf

MEAN, SUM = tf2.distribute.ReduceOp.MEAN, tf2.distribute.ReduceOp.SUM


def count():
    """How many replicas there are, on every machine together."""
    return tf2.distribute.get_strategy().num_replicas_in_sync


def this_replica():
    """(index, count) of the replica that the graph is being built for."""
    index = tf2.distribute.get_replica_context().replica_id_in_sync_group  # a constant tensor, of several replicas
    return int(tf2.get_static_value(index)), count()


def all_reduce(operation, values):
    """`values`, a list of tensors, reduced over the replicas, from within one of them."""

    def reduce(strategy, *values):  # in one message; ReplicaContext.all_reduce would look for gradients and fail
        everywhere = values[0] if len(devices := strategy.extended.worker_devices) > 1 else devices[0]
        return strategy.extended.batch_reduce_to(operation, [(value, everywhere) for value in values])

    return tf2.distribute.get_replica_context().merge_call(reduce, values)


def replicate_step(compute, update):
    """The two halves of a training step, each done by every replica; on one device they are what they were.

    Args:
      compute: function from the step (int64 scalar) to (finite, loss, correct, gradients, statistics), the last two
        lists of (value, variable); here of a replica's part of the batch.
      update: function from gradients and statistics to a tensor that depends on the update.

    Returns:
      Two such functions, of the global batch. A step is finite where it is so on every replica.
    """
    if count() == 1:
        return compute, update
    strategy = tf2.distribute.get_strategy()

    def on_one(now):
        finite, loss, correct, gradients, statistics = compute(now)
        known = [1 - tf.cast(finite, tf.float32), loss, tf.cast(correct, tf.float32)]  # counts are far below 2^24
        bad, loss, correct, *sums = all_reduce(SUM, [*known, *(value for value, _ in statistics)])
        # The optimiser adds the gradients up. The statistics become the same on all replicas, and not only where they
        # are read, so that a checkpoint, which holds one copy, is all that a resumed run needs.
        gradients = [(gradient / count(), variable) for gradient, variable in gradients]
        statistics = [(total / count(), variable) for total, (_, variable) in zip(sums, statistics, strict=True)]
        return tf.equal(bad, 0), loss / count(), tf.cast(correct, tf.int64), gradients, statistics

    def compute_on_all(now):
        *scalars, gradients, statistics = strategy.run(on_one, [now])
        return *(strategy.experimental_local_results(value)[0] for value in scalars), gradients, statistics

    def update_on_all(gradients, statistics):
        done = strategy.experimental_local_results(strategy.run(update, [gradients, statistics]))
        with tf.control_dependencies(done):
            return tf.constant(True)

    # The first update makes slots and shadows, which must exist before the loop. This one is built and never run.
    weights = tf.trainable_variables()
    strategy.run(lambda: update([(tf.zeros(variable.shape), variable) for variable in weights], []))
    return compute_on_all, update_on_all


def sharded(rows, size):
    """rows(0, size), [size, K] float32; of several replicas each computes some of the rows, and all get all of them.

    Args:
      rows: function from two Python ints, `first` and `end`, to [end - first, K] float32.
    """
    if count() == 1:
        return rows(0, size)

    def part():
        index, replicas = this_replica()
        share = math.ceil(size / replicas)
        first, end = min(index * share, size - 1), min((index + 1) * share, size)
        own = rows(first, end)[: max(0, end - index * share)]  # of more replicas than rows the last have none
        # Adding zeros changes no number.
        return all_reduce(SUM, [tf.pad(own, [[min(index * share, size), size - end], [0, 0]])])[0]

    strategy = tf2.distribute.get_strategy()
    return strategy.experimental_local_results(strategy.run(part))[0]


# ---------------------------------------------------------------------------------------------------------------
# Variables


def one_local_copy(next_creator, **kwargs):
    """For tf.variable_creator_scope in a strategy's: each process has one of a local variable, not one a replica.

    Those are the data on the device. Mirrored they would be sent from the chief to every worker at the start, and not
    at all where they are of uint8.
    """
    if tf.GraphKeys.LOCAL_VARIABLES not in (kwargs["collections"] or []):
        return next_creator(**kwargs)
    with tf.Graph().as_default():  # out of the strategy's scope, where a variable is a plain one
        plain = type(tf.get_variable("plain", initializer=0.0))
    return plain(**{key: kwargs[key] for key in ("initial_value", "name", "trainable", "collections")})


class Saver(tf.train.Saver):
    """Saves the first copy of every global variable, as on one device, and restores them all."""

    def __init__(self):
        copies = [tf2.distribute.get_strategy().experimental_local_results(v) for v in tf.global_variables()]
        super().__init__([first for first, *_ in copies], max_to_keep=None)
        self.spread = tf.group([other.assign(first) for first, *others in copies for other in others])

    def restore(self, session, path):
        super().restore(session, path)
        session.run(self.spread)
