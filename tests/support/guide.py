"""The guide once more, fed one batch a step: an oracle for training, with its own batches."""

import functools

import tensorflow as tf2
import tensorflow.compat.v1 as tf

import data
import ema
import model
from support.tiny import dataset

NUMBERS = {
    "seed": 3,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "adam_beta1": 0.5,
    "dropout": 0.5,
    "ema_decay": "0.998",
    "width": 0.05,
}
OTHERS = {
    "seed": 4,
    "batch_size": 8,
    "learning_rate": 3e-3,
    "adam_beta1": 0.9,
    "dropout": 0.25,
    "ema_decay": "0.9",
    "width": 0.04,
}


def train(numbers, augment, steps):
    """What so many steps end at: weights and shadows, each name to array, and EMA test logits.

    The batches are gathered here, by NumPy, from the order of each epoch.
    """
    seed, size = numbers["seed"], numbers["batch_size"]
    images, labels = dataset().train
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(seed)
        x, y = tf.placeholder(tf.uint8, [size, 32, 32, 3]), tf.placeholder(tf.int64, [size])
        step = tf.placeholder(tf.int64, [])
        seeds = tf2.random.split(tf.stack([tf.constant(seed, tf.int64), step]), 2, "philox")
        dropout_seed, augment_seed = tf.unstack(tf.cast(seeds, tf.int32))
        pixels = data.to_float(data.augment(x, augment_seed) if augment else x)
        network = functools.partial(model.classifier, width=numbers["width"], dropout_rate=numbers["dropout"])
        network(tf.zeros([1, 32, 32, 3]), phase=False)
        logits = network(pixels, phase=True, reuse=True, seed=dropout_seed)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits))
        var_class = tf.get_collection("trainable_variables", "class")
        optimizer = tf.train.AdamOptimizer(numbers["learning_rate"], numbers["adam_beta1"])
        with tf.control_dependencies(tf.get_collection("update_ops")):
            train_op = optimizer.minimize(loss, var_list=var_class)
        average = tf.train.ExponentialMovingAverage(float(numbers["ema_decay"]))
        with tf.control_dependencies([train_op]):
            ema_op = average.apply(var_class)
        test = data.to_float(tf.constant(dataset().test.images))
        ema_logits = network(test, phase=False, reuse=True, getter=ema.ema_getter(average))
        epoch = tf.placeholder(tf.int64, [])
        order_of = data.epoch_order(seed, epoch, len(labels))
        session.run(tf.global_variables_initializer())
        per_epoch = len(labels) // size
        for now in range(steps):
            order = session.run(order_of, {epoch: now // per_epoch})
            chosen = order[now % per_epoch * size : (now % per_epoch + 1) * size]
            session.run(ema_op, {x: images[chosen], y: labels[chosen], step: now})
        variables = session.run({v.op.name: v for v in var_class})
        return variables, session.run({v.op.name: average.average(v) for v in var_class}), session.run(ema_logits)
