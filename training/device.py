"""The device of a run, its name in the log, the precision that suits it, and its session."""

import platform
import re
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training.cli import UserError, cores, install_command, show_status

MIN_SPEEDUP = 1.1  # a smaller one is not worth the lower precision
TIMED_IMAGES = 8  # a batch of 64 gives the same ratio in eight times the time
TIMED_SECONDS = 0.7


class Device(NamedTuple):
    kind: str  # "cpu" or "gpu"
    description: str
    has_bfloat16: bool  # in hardware; emulation is slower than float32


def choose(device):
    """Resolves --device {auto,cpu,gpu} and returns the Device; hides the GPUs if it is the CPU.

    Raises:
      UserError: "gpu" is requested and TensorFlow sees none.
    """
    gpus = tf2.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise UserError(
            f"--device gpu: TensorFlow sees no GPU; check nvidia-smi and {install_command('requirements/gpu.txt')}, "
            "or use --device cpu"
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
    processor = name[1] if name else platform.machine()
    plural = "s" if cores() > 1 else ""
    return Device("cpu", f"CPU, {processor}, {cores()} core{plural}", has_bfloat16)


def choose_precision(flags, device, network, image_shape):
    """Resolves --precision {auto,float32,bfloat16}.

    On a CPU, auto times the network in both precisions: the processor's flags do not tell which one is faster, and
    narrow networks are slower in bfloat16 even with native instructions.

    Args:
      flags: precision, width and dropout are used.
      device: Device.
      network: model.classifier.
      image_shape: (height, width, channels).

    Returns:
      ("float32" or "bfloat16", the reason for the log or "").
    """
    if flags.precision != "auto":
        return flags.precision, ""
    if not device.has_bfloat16:
        return "float32", ""
    if device.kind == "gpu":
        return "bfloat16", ""
    show_status("timing float32 and bfloat16 ...")
    speedup = bfloat16_speedup(partial(network, width=flags.width, dropout_rate=flags.dropout), image_shape)
    show_status("building the graph ...")
    return "bfloat16" if speedup >= MIN_SPEEDUP else "float32", f"bfloat16 is {speedup:.2f}x as fast here"


def bfloat16_speedup(network, image_shape):
    """Returns the time of a forward and backward pass in float32 over that in bfloat16, on this processor.

    Args:
      network: function from images [N, H, W, C] float32 and the keywords of model.classifier to logits.
      image_shape: (H, W, C).
    """
    with tf.Graph().as_default():
        tf.set_random_seed(0)  # TF_DETERMINISTIC_OPS=1 requires a seed
        images = tf.random.stateless_uniform([TIMED_IMAGES, *image_shape], [0, 0], -1, 1)
        steps = {dtype: _gradients(network, images, dtype) for dtype in ("float32", "bfloat16")}
        with session() as timed:
            timed.run(tf.global_variables_initializer())
            seconds = {dtype: [] for dtype in steps}
            deadline = time.perf_counter() + TIMED_SECONDS
            while len(seconds["bfloat16"]) < 3 or time.perf_counter() < deadline:
                for dtype, step in steps.items():  # in turns, so that other load slows both
                    start = time.process_time()  # of all cores, without the time that other processes take
                    timed.run(step)
                    seconds[dtype].append(time.process_time() - start)
    fastest = {dtype: min(values[1:]) for dtype, values in seconds.items()}  # the first run prepares the kernels
    return fastest["float32"] / fastest["bfloat16"]


def _gradients(network, images, dtype):
    """Returns a scalar that reads every gradient: the graph optimiser prunes what nothing reads."""
    logits = network(images, phase=True, reuse=tf.AUTO_REUSE, internal_update=[], dtype=dtype)
    gradients = tf.gradients(tf.reduce_sum(logits**2), tf.trainable_variables())
    return tf.add_n([tf.reduce_mean(gradient) for gradient in gradients])


def choose_xla(xla, device):
    """Resolves --xla {auto,on,off}: auto compiles on a GPU; on a CPU, XLA's convolutions are 50 times slower."""
    return xla == "on" or (xla == "auto" and device.kind == "gpu")


def session():
    """Returns a session on the default graph."""
    return tf.Session(config=session_config())


def session_config():
    """Returns a ConfigProto: one operation at a time on all cores, GPU memory allocated as needed.

    Two operations at once are slower, because each convolution already uses every core and the whole cache.
    """
    config = tf.ConfigProto(
        intra_op_parallelism_threads=cores(),
        inter_op_parallelism_threads=1,
        use_per_session_threads=True,
        allow_soft_placement=True,
    )
    config.gpu_options.allow_growth = True
    return config
