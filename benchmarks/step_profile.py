"""Where the time of a training step goes, by kind of operation: `python benchmarks/step_profile.py`, about a minute.

The step of train.py, whose flags it takes, traced by TensorFlow: the median over some steps of what each operation
took. Operations run one at a time on a CPU, so that their times add up to the step's.
"""

from collections import Counter
from statistics import median

import contestant
import tensorflow.compat.v1 as tf
from layout import fixed_width
from ours import Ours

STEPS, SHOWN = 15, 20


def operations(step_stats):
    """Microseconds by (kind, name) of operation, of the trace of a session.run."""
    found = Counter()
    for device in step_stats.dev_stats:
        for node in device.node_stats:
            _, _, call = node.timeline_label.rpartition(" = ")  # as in "name = Kind(inputs)"
            kind = call.partition("(")[0].removeprefix("_MklNative").removeprefix("_Mkl")
            found[kind or "other", node.node_name] += node.op_end_rel_micros
    return found


def profile(ours, steps=STEPS):
    """Milliseconds of a step by kind of operation: a Counter."""
    ours.run(contestant.WARM_UP_STEPS)
    options, traces = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), []
    for _ in range(steps):
        metadata, ours.step = tf.RunMetadata(), ours.step + 1
        ours.session.run(ours.graph.loop.train, {ours.graph.loop.until: ours.step}, options, metadata)
        traces.append(operations(metadata.step_stats))
    kinds = Counter()
    for kind, name in set().union(*traces):
        kinds[kind] += median(trace[kind, name] for trace in traces) / 1000
    return kinds


def table(kinds):
    """(header, rows): the longest first, the many short ones together."""
    shown = kinds.most_common(SHOWN)
    rest, total = kinds.total() - sum(value for _, value in shown), kinds.total()
    rows = [*shown, (f"{len(kinds) - len(shown)} more", rest), ("all", total)]
    return ["operation", "ms", "share"], [[name, f"{value:.2f}", f"{value / total:.1%}"] for name, value in rows]


if __name__ == "__main__":
    tf.disable_eager_execution()
    ours = Ours(contestant.parse("no_ema"))
    print(f"{ours.about['device']}; {ours.about['precision']}; a step of {ours.settings.flags.batch_size} images")
    print(fixed_width(*table(profile(ours))))
