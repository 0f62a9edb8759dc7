"""The guide written again, with one batch per session.run: an oracle for training."""

import functools

import tensorflow as tf2
import tensorflow.compat.v1 as tf

import data
import ema
import model
from support.tiny import dataset


def train(flags, steps):
    """Trains on support.tiny's images, in the order of data.epoch_order, with batches gathered by NumPy.

    Returns:
      {name: weights}, {name: shadow} and EMA test logits after `steps` steps.
    """
    images, labels = dataset().train
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(flags.seed)
        x, y = tf.placeholder(tf.uint8, [flags.batch_size, 32, 32, 3]), tf.placeholder(tf.int64, [flags.batch_size])
        step = tf.placeholder(tf.int64, [])
        seeds = tf2.random.split(tf.stack([tf.constant(flags.seed, tf.int64), step]), 2, "philox")
        dropout_seed, augment_seed = tf.unstack(tf.cast(seeds, tf.int32))
        pixels = data.to_float(data.augment(x, augment_seed) if flags.augment else x)
        network = functools.partial(model.classifier, width=flags.width, dropout_rate=flags.dropout)
        network(tf.zeros([1, 32, 32, 3]), phase=False)
        logits = network(pixels, phase=True, reuse=True, seed=dropout_seed)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
        var_class = tf.get_collection("trainable_variables", "class")
        optimizer = tf.train.AdamOptimizer(flags.learning_rate, flags.adam_beta1)
        with tf.control_dependencies(tf.get_collection("update_ops")):
            train_op = optimizer.minimize(loss, var_list=var_class)
        average = tf.train.ExponentialMovingAverage(float(flags.ema_decay[0]))
        with tf.control_dependencies([train_op]):
            ema_op = average.apply(var_class)
        test = data.to_float(tf.constant(dataset().test.images))
        ema_logits = network(test, phase=False, reuse=True, getter=ema.ema_getter(average))
        epoch = tf.placeholder(tf.int64, [])
        order_of = data.epoch_order(flags.seed, epoch, len(labels))
        session.run(tf.global_variables_initializer())
        epoch_steps = len(labels) // flags.batch_size
        for number in range(steps):
            order = session.run(order_of, {epoch: number // epoch_steps})
            chosen = order.reshape(epoch_steps, -1)[number % epoch_steps]
            session.run(ema_op, {x: images[chosen], y: labels[chosen], step: number})
        variables = session.run({v.op.name: v for v in var_class})
        return variables, session.run({v.op.name: average.average(v) for v in var_class}), session.run(ema_logits)
