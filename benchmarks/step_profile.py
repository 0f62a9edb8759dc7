"""Where the time of a training step goes, by kind of operation; takes the flags of train.py, and about a minute.

TensorFlow traces some steps; what each operation took is the median over them. On a CPU they run one at a time.
"""

from collections import Counter
from statistics import median

import contestant
import tables
import tensorflow.compat.v1 as tf
from ours import Ours

STEPS, SHOWN = 15, 20


def operations(step_stats):
    """Microseconds by (kind, name) of operation, of the trace of a session.run: a Counter."""
    found = Counter()
    for device in step_stats.dev_stats:
        for node in device.node_stats:
            _, _, call = node.timeline_label.rpartition(" = ")  # as in "name = Kind(inputs)"
            kind = call.partition("(")[0].removeprefix("_MklNative").removeprefix("_Mkl")
            found[kind or "other", node.node_name] += node.op_end_rel_micros
    return found


def main(flags):
    ours = Ours(flags)
    ours.run(contestant.WARM_UP_STEPS)
    options, traces = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE), []
    for _ in range(STEPS):
        metadata, ours.step = tf.RunMetadata(), ours.step + 1
        ours.session.run(ours.graph.loop.train, {ours.graph.loop.until: ours.step}, options, metadata)
        traces.append(operations(metadata.step_stats))
    kinds = Counter()
    for kind, name in set().union(*traces):
        kinds[kind] += median(trace[kind, name] for trace in traces) / 1000
    found = [*kinds.most_common(SHOWN), ("all", kinds.total())]
    rows = [[kind, f"{ms:.2f}", f"{ms / kinds.total():.1%}"] for kind, ms in found]
    print(f"{ours.about['device']}; {ours.about['precision']}; a step of {flags.batch_size} images\n")
    print(tables.table(["operation", "ms", "share"], rows))


if __name__ == "__main__":
    main(contestant.parse())
