"""Which device a run uses, what it is called, which precision suits it, and the session that drives it."""

import os
import platform
import re
import time
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training.cli import UserError, how_to_install, show_status

CLEARLY_FASTER = 1.1  # below that, bfloat16 is not worth its coarseness
TIMED_IMAGES = 8  # a batch of 64 tells the same, in eight times the time
TIMED_SECONDS = 0.7


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
            f"--device gpu: TensorFlow sees no GPU; check nvidia-smi and {how_to_install('requirements/gpu.txt')}, or "
            "use --device cpu"
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


def choose_precision(precision, device, network):
    """Resolves --precision {auto,float32,bfloat16}.

    What a processor lists does not tell: with bfloat16 instructions it may still be slower than in float32, above all
    where the network is narrow. So steps of the network itself are timed in both, for about a second.

    Args:
      device: Device.
      network: as of `bfloat16_speed`.

    Returns:
      ("float32" or "bfloat16", the reason for the log, where it was measured).
    """
    if precision != "auto":
        return precision, ""
    if not device.has_bfloat16:
        return "float32", ""
    if device.kind == "gpu":  # what has it in hardware gains by it
        return "bfloat16", ""
    show_status("timing float32 and bfloat16 ...")
    ratio = bfloat16_speed(network)
    show_status("building the graph ...")
    return "bfloat16" if ratio >= CLEARLY_FASTER else "float32", f"bfloat16 is {ratio:.2f}x as fast here"


def bfloat16_speed(network):
    """How many times as fast a forward and backward pass of a network is in bfloat16 as in float32, on this processor.

    Args:
      network: function from images [N, 32, 32, 3] float32 and the keywords of model.classifier to logits.
    """
    with tf.Graph().as_default():
        tf.set_random_seed(0)  # TF_DETERMINISTIC_OPS=1 demands one
        images = tf.random.stateless_uniform([TIMED_IMAGES, 32, 32, 3], [0, 0], -1, 1)
        steps = {dtype: _gradients(network, images, dtype) for dtype in ("float32", "bfloat16")}
        with session() as timed:
            timed.run(tf.global_variables_initializer())
            seconds = {dtype: [] for dtype in steps}
            ends = time.perf_counter() + TIMED_SECONDS
            while len(seconds["bfloat16"]) < 3 or time.perf_counter() < ends:
                for dtype, step in steps.items():  # in turns: whatever else the machine does meets both
                    started = time.process_time()  # of all cores; time that others take them away does not count
                    timed.run(step)
                    seconds[dtype].append(time.process_time() - started)
    fastest = {dtype: min(values[1:]) for dtype, values in seconds.items()}  # the first one also prepares the kernels
    return fastest["float32"] / fastest["bfloat16"]


def _gradients(network, images, dtype):
    """A number that takes every gradient of the network: the graph optimiser removes what is only waited for."""
    logits = network(images, phase=True, reuse=tf.AUTO_REUSE, internal_update=[], dtype=dtype)
    gradients = tf.gradients(tf.reduce_sum(logits**2), tf.trainable_variables())
    return tf.add_n([tf.reduce_mean(gradient) for gradient in gradients])


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
