"""Data-parallel training: the bytes of its all-reduce, the time of a step on 1 and 2 replicas, a forecast for 64.

    python benchmarks/replicas.py                        # measures here: one process for each number of replicas
    python benchmarks/replicas.py --step_seconds 0.004   # nothing is measured: predicts for GPUs with such a step

Prints one JSON object. The prediction is weak scaling, each GPU with a batch of its own size, over a ring:

    bytes a GPU sends in a step    2 (n - 1) / n * payload
    efficiency of n GPUs           step / (step + bytes / bandwidth + 3 * 2 (n - 1) * latency)
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GPUS = (1, 2, 4, 8, 16, 32, 64)
ALL_REDUCES = 3  # one after the other in a step: statistics with the flag, gradients, loss with the right answers
TOTALS = 3  # floats that are reduced besides: loss, correct answers, whether the step is finite


def payload(parameters, statistics):
    """Bytes that a replica brings into the all-reduces of a step: gradients, batch statistics, totals; all float32."""
    return 4 * (parameters + statistics + TOTALS)


def sent(payload_bytes, replicas):
    """Bytes that each of n replicas sends in a ring all-reduce, and receives too."""
    return 2 * (replicas - 1) / replicas * payload_bytes


def efficiency(step_seconds, payload_bytes, replicas, bandwidth, latency):
    """Images per second of n replicas over n times those of one.

    Args:
      step_seconds: of one replica alone, with the batch that each of the n has.
      payload_bytes: see `payload`.
      bandwidth: bytes a second that a replica sends while it receives as many.
      latency: seconds before each of the 2 (n - 1) messages of a ring, once for each all-reduce.
    """
    messages = ALL_REDUCES * 2 * (replicas - 1)
    return step_seconds / (step_seconds + sent(payload_bytes, replicas) / bandwidth + messages * latency)


def prediction(step_seconds, payload_bytes, gigabits, microseconds):
    """Number of GPUs to efficiency."""
    return {
        n: round(efficiency(step_seconds, payload_bytes, n, gigabits * 1e9 / 8, microseconds / 1e6), 4) for n in GPUS
    }


# ---------------------------------------------------------------------------------------------------------------
# Measurement, in a process for each number of replicas


def run(args, replicas):
    """What `measure` prints in a process with so many replicas."""
    command = [sys.executable, __file__, "--replicas", str(replicas), "--steps", str(args.steps)]
    command += ["--batch_size", str(args.batch_size), "--width", str(args.width), "--device", args.device]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:  # it has said why
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def measure(args):
    """Seconds of a step of the graph of train.py, each replica with --batch_size images; the median of --steps."""
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    import data
    import train
    from training import config, parallel, settings, synthetic

    argv = ["--dataset", "synthetic", "--width", str(args.width), "--device", args.device, "--run_dir", "unused"]
    argv += ["--precision", "float32", "--batch_size", str(args.batch_size * args.replicas)]
    argv += ["--strategy", "mirrored", "--devices", str(args.replicas)] if args.replicas > 1 else ["--xla", "off"]
    flags = config.parse(argv)
    place = parallel.choose(flags)
    split = data.Split(*synthetic.draw(max(512, flags.batch_size), 0))
    dataset = data.Dataset(split, data.Split(*(array[:10] for array in split)), "synthetic")
    with tf.Graph().as_default(), place.scope():
        graph = train.build(settings.resolve(flags, place.device, len(split.labels), None, place.replicas), dataset)
        with place.session() as session:
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()], graph.feeds)
            seconds = []
            for until in range(1, args.steps + 2):
                started = time.perf_counter()
                session.run(graph.loop.train, {graph.loop.until: until})
                seconds.append(time.perf_counter() - started)
        parameters = sum(variable.shape.num_elements() for variable in graph.var_class)
        held = sum(variable.shape.num_elements() for variable in tf.global_variables("class") if is_raw(variable))
    return {
        "replicas": args.replicas,
        "device": place.device.description,
        "parameters": parameters,
        "statistics": held - parameters,
        "step_seconds": sorted(seconds[1:])[args.steps // 2],  # the first one also prepares the kernels
    }


def is_raw(variable):
    """A variable of the network itself, and not its Adam slot or shadow."""
    return variable.op.name.endswith(("/weights", "/gamma", "/beta", "/mean", "/var"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=64, help="images of each replica")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--step_seconds", type=float, help="of one GPU, measured elsewhere")
    parser.add_argument("--parameters", type=int, default=1_998_068, help="with --step_seconds: of the network")
    parser.add_argument("--statistics", type=int, default=2_900, help="with --step_seconds: moving means and variances")
    parser.add_argument("--gigabits", type=float, default=100.0, help="a second, of the network between GPUs")
    parser.add_argument("--microseconds", type=float, default=10.0, help="before each message of the ring")
    parser.add_argument("--replicas", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.replicas:
        sys.path.insert(0, str(ROOT))
        from training.errors import or_exit

        print(json.dumps(or_exit(measure, args)))
        return
    measured = [] if args.step_seconds else [run(args, replicas) for replicas in (1, 2)]
    one = measured[0] if measured else vars(args)
    size = payload(one["parameters"], one["statistics"])
    found = {
        "measured": measured,
        "payload_bytes": size,
        "sent_bytes": {n: round(sent(size, n)) for n in GPUS},
        "predicted_efficiency": prediction(one["step_seconds"], size, args.gigabits, args.microseconds),
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
