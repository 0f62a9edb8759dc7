"""Data-parallel training with TensorFlow's distribution strategies.

Callers do not need to know --strategy: the functions ask which strategy's scope they are in, and add nothing to the
graph on one device. Each replica has a copy of every variable and takes a part of the global batch. All copies are
equal after every step:

    gradients         mean over the global batch
    batch statistics  of each replica's part; the moving averages are the mean over the replicas
    shadows           updated once per step, from equal weights with equal decays
    not finite        on any replica: the step is skipped on all
"""

import math

import tensorflow as tf2
import tensorflow.compat.v1 as tf

MEAN, SUM = tf2.distribute.ReduceOp.MEAN, tf2.distribute.ReduceOp.SUM


def count():
    """Returns the number of replicas, over all machines."""
    return tf2.distribute.get_strategy().num_replicas_in_sync


def this_replica():
    """Returns (index, count) of the replica for which the graph is being built, as ints."""
    index = tf2.distribute.get_replica_context().replica_id_in_sync_group  # may be a constant tensor
    return int(tf2.get_static_value(index)), count()


def all_reduce(operation, values):
    """Reduces `values`, a list of tensors, over the replicas; called within a replica."""

    def reduce(strategy, *values):  # in one message; ReplicaContext.all_reduce would look for gradients and fail
        devices = strategy.extended.worker_devices
        destination = values[0] if len(devices) > 1 else devices[0]
        return strategy.extended.batch_reduce_to(operation, [(value, destination) for value in values])

    return tf2.distribute.get_replica_context().merge_call(reduce, values)


def replicate_step(compute, update):
    """Makes every replica do the two halves of a training step; returns them unchanged on one device.

    Args:
      compute: function from the step (int64 scalar) to training.loop.StepResult, of this replica's part of the batch.
      update: function from gradients and statistics to a tensor that depends on the update.

    Returns:
      Two functions with the same arguments and results, for the global batch.
    """
    if count() == 1:
        return compute, update
    strategy = tf2.distribute.get_strategy()

    def compute_reduced(step):
        result = compute(step)
        not_finite = 1 - tf.cast(result.finite, tf.float32)
        scalars = [not_finite, result.loss, tf.cast(result.correct, tf.float32)]  # counts are far below 2^24
        not_finite, loss, correct, *sums = all_reduce(SUM, scalars + [value for value, _ in result.statistics])
        variables = [variable for _, variable in result.statistics]
        return result._replace(
            finite=tf.equal(not_finite, 0),
            loss=loss / count(),
            correct=tf.cast(correct, tf.int64),
            gradients=[(gradient / count(), variable) for gradient, variable in result.gradients],  # Adam adds them up
            # Equal on all replicas, not only where they are read: a checkpoint holds only one copy.
            statistics=[(total / count(), variable) for total, variable in zip(sums, variables, strict=True)],
        )

    def compute_on_all(step):
        result = strategy.run(compute_reduced, [step])
        return result._replace(finite=_first(result.finite), loss=_first(result.loss), correct=_first(result.correct))

    def update_on_all(gradients, statistics):
        updates = strategy.experimental_local_results(strategy.run(update, [gradients, statistics]))
        with tf.control_dependencies(updates):
            return tf.constant(True)

    # This update never runs. It creates slots and shadows, which must exist before the loop.
    weights = tf.trainable_variables()
    strategy.run(lambda: update([(tf.zeros(variable.shape), variable) for variable in weights], []))
    return compute_on_all, update_on_all


def _first(value):
    return tf2.distribute.get_strategy().experimental_local_results(value)[0]


def sharded(rows, size):
    """Returns rows(0, size), [size, K] float32; with several replicas, each computes a part and all get the whole.

    Args:
      rows: function from two ints, `first` and `end`, to [end - first, K] float32.
      size: int.
    """
    if count() == 1:
        return rows(0, size)

    def shard():
        index, replicas = this_replica()
        share = math.ceil(size / replicas)
        first, end = min(index * share, size - 1), min((index + 1) * share, size)
        own_rows = rows(first, end)[: max(0, end - index * share)]  # empty on replicas beyond the number of rows
        padded = tf.pad(own_rows, [[min(index * share, size), size - end], [0, 0]])
        return all_reduce(SUM, [padded])[0]  # adding zeros is exact

    return _first(tf2.distribute.get_strategy().run(shard))


# ---------------------------------------------------------------------------------------------------------------
# Variables


def one_local_copy(next_creator, **kwargs):
    """Gives each process one copy of a local variable instead of one per replica; for tf.variable_creator_scope.

    Local variables hold the data. Mirrored, the chief would send them to every worker, which fails for uint8.
    """
    if tf.GraphKeys.LOCAL_VARIABLES not in (kwargs["collections"] or []):
        return next_creator(**kwargs)
    with tf.Graph().as_default():  # outside the strategy's scope, where variables are plain
        plain_class = type(tf.get_variable("plain", initializer=0.0))
    return plain_class(**{key: kwargs[key] for key in ("initial_value", "name", "trainable", "collections")})


class Saver(tf.train.Saver):
    """Saves the first copy of every global variable, as on one device; restores all copies."""

    def __init__(self):
        copies = [tf2.distribute.get_strategy().experimental_local_results(v) for v in tf.global_variables()]
        super().__init__([first for first, *_ in copies], max_to_keep=None)
        self.spread = tf.group([other.assign(first) for first, *others in copies for other in others])

    def restore(self, session, path):
        super().restore(session, path)
        session.run(self.spread)
