"""Which device a run uses, what it is called, which precision suits it, and the session that drives it."""

import os
import platform
import re
import time
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training.command import UserError

CLEARLY_FASTER = 1.1  # below that, bfloat16 is not worth its coarseness
MEASUREMENTS = 8
WIDEST = 192  # channels of the network's widest layers at --width 1


class Device(NamedTuple):
    kind: str  # "cpu" or "gpu"
    description: str
    has_bfloat16: bool  # listed by the processor; emulation is slower than float32


def choose(device):
    """Resolves --device {auto,cpu,gpu} and keeps TensorFlow to it.

    Raises:
      UserError: "gpu" was asked for and TensorFlow sees none.
    """
    gpus = tf2.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise UserError(
            "--device gpu: TensorFlow sees no GPU; check nvidia-smi and pip install -r requirements/gpu.txt, or use "
            "--device cpu"
        )
    if gpus and device != "cpu":
        details = tf2.config.experimental.get_device_details(gpus[0])
        modern = details.get("compute_capability", (0, 0)) >= (8, 0)
        return Device("gpu", f"GPU, {details.get('device_name', 'unnamed')}", modern)
    tf2.config.set_visible_devices([], "GPU")
    return _cpu()


def _cpu():
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    has_bfloat16 = re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", text) is not None
    several = f"{cores()} core{'s' if cores() > 1 else ''}"
    return Device("cpu", f"CPU, {name[1] if name else platform.machine()}, {several}", has_bfloat16)


def cores():
    """The processors that this process may use, which is not all of the machine's under a scheduler or taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def choose_precision(precision, device, width):
    """Resolves --precision {auto,float32,bfloat16}.

    What a processor lists does not tell: on one that has bfloat16 instructions it may be much slower than float32, so
    a convolution of the network is timed in both, for a few tenths of a second.

    Args:
      device: Device.
      width: of the network.

    Returns:
      ("float32" or "bfloat16", the reason for the log, where it was measured).
    """
    if precision != "auto":
        return precision, ""
    if not device.has_bfloat16:
        return "float32", ""
    if device.kind == "gpu":  # what has it in hardware gains by it
        return "bfloat16", ""
    ratio = bfloat16_speed(max(1, round(WIDEST * width)))
    name = "bfloat16" if ratio >= CLEARLY_FASTER else "float32"
    return name, f"bfloat16: {ratio:.2f} times float32 here"


def bfloat16_speed(channels):
    """How many times faster a convolution with both its gradients is in bfloat16 than in float32, on this processor."""
    with tf.Graph().as_default():
        steps = {dtype: _convolution(channels, dtype) for dtype in (tf.float32, tf.bfloat16)}
        with session() as timed:
            timed.run(tf.global_variables_initializer())
            seconds = {dtype: [] for dtype in steps}
            for _ in range(MEASUREMENTS):  # in turns: whatever else the machine does meets both
                for dtype, step in steps.items():
                    started = time.perf_counter()
                    timed.run(step)
                    seconds[dtype].append(time.perf_counter() - started)
    fastest = {dtype: min(values[1:]) for dtype, values in seconds.items()}  # the first one also prepares the kernels
    return fastest[tf.float32] / fastest[tf.bfloat16]


def _convolution(channels, dtype):
    """A tensor that takes a 3x3 convolution and its gradients, over a few images of the middle of the network."""
    x = tf.get_variable(f"x_{dtype.name}", [4, 16, 16, channels], dtype, tf.ones_initializer())
    weights = tf.get_variable(f"weights_{dtype.name}", [3, 3, channels, channels], dtype, tf.ones_initializer())
    y = tf.nn.conv2d(x, weights, strides=1, padding="SAME")
    # Values that are used: the graph optimiser takes out whatever is only waited for.
    return tf.add_n([tf.reduce_mean(gradient) for gradient in tf.gradients(y, [x, weights], grad_ys=y)])


def choose_xla(xla, device):
    """Resolves --xla {auto,on,off}: on a GPU the loop is compiled, on a CPU XLA's convolutions are far too slow."""
    return xla == "on" or (xla == "auto" and device.kind == "gpu")


def session():
    """A session on the default graph."""
    return tf.Session(config=session_config())


def session_config():
    """All cores inside one operation at a time, GPU memory taken as it is needed.

    The convolutions use every core by themselves; two operations at once only fight over the cache.
    """
    config = tf.ConfigProto(
        intra_op_parallelism_threads=cores(),
        inter_op_parallelism_threads=1,
        use_per_session_threads=True,
        allow_soft_placement=True,
    )
    config.gpu_options.allow_growth = True
    return config
