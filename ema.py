"""Exponential moving averages of the weights: the guide's getter, and the check that it replaced what it should.

The guide's recipe, as train.py follows it:

    ema = tf.train.ExponentialMovingAverage(decay=0.998)
    with tf.control_dependencies([train_op]):       # strictly after the optimiser's step
        ema_op = ema.apply(var_class)
    ema_logits = classifier(x, phase=False, reuse=True, getter=ema_getter(ema))
"""


def ema_getter(ema):
    """The guide's custom getter: the shadow of a variable where `ema` keeps one, else the variable itself.

    Args:
      ema: a tf.train.ExponentialMovingAverage that was applied to some variables.

    Returns:
      A function for `tf.variable_scope(custom_getter=...)`. Its attribute `replaced` fills up with the
      names of the variables whose shadow it handed out, for `check_replaced`.
    """

    def getter(getter, name, *args, **kwargs):  # TensorFlow passes the first one by this keyword
        variable = getter(name, *args, **kwargs)
        shadow = ema.average(variable)
        if shadow is None:  # a truth test would fail: a resource variable has no truth value in a graph
            return variable
        replaced.add(variable.op.name)
        return shadow

    getter.replaced = replaced = set()
    return getter


def check_replaced(getter, var_list):
    """Checks that a network built through `getter` reads the shadows of exactly `var_list`.

    A getter that finds no shadow falls back to the raw variable without a word, and the "EMA"
    network silently equals the raw one in part or in whole.

    Raises:
      ValueError: names a variable that was not replaced, or one that should not have been.
    """
    expected = {variable.op.name for variable in var_list}
    if missing := sorted(expected - getter.replaced):
        raise ValueError(f"the EMA network reads {missing[0]} itself, not its moving average ({len(missing)} such)")
    if extra := sorted(getter.replaced - expected):
        raise ValueError(f"the EMA network reads a moving average of {extra[0]}, which is not to be averaged")
