"""Which device a run uses, what it is called, which precision suits it, and the session that drives it."""

import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf2
import tensorflow.compat.v1 as tf

from training.errors import UserError
from training.stderr import captured_stderr


class Device(NamedTuple):
    kind: str  # "cpu" or "gpu"
    description: str
    has_bfloat16: bool  # in hardware; emulation is slower than float32


def choose(device):
    """Resolves --device {auto,cpu,gpu} and keeps TensorFlow to it.

    Raises:
      UserError: "gpu" was asked for and TensorFlow sees none.
    """
    with captured_stderr() as native_log:
        gpus = tf2.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        reasons = [line.split("] ")[-1] for line in native_log if line.startswith("E")]
        reason = f" ({reasons[-1]})" if reasons else ""
        raise UserError(
            f"--device gpu: TensorFlow sees no GPU{reason}; check nvidia-smi and pip install -r requirements/gpu.txt, "
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
    return Device("cpu", f"CPU, {name[1] if name else platform.machine()}, {cores()} cores", has_bfloat16)


def cores():
    """The processors that this process may use, which is not all of the machine's under a scheduler or taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def choose_precision(precision, device):
    """Resolves --precision {auto,float32,bfloat16} to the name of a dtype."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.has_bfloat16 else "float32"


def choose_xla(xla, device):
    """Resolves --xla {auto,on,off}: on a GPU the loop is compiled, on a CPU XLA's convolutions are far too slow."""
    return xla == "on" or (xla == "auto" and device.kind == "gpu")


def session():
    """A session on the default graph: all cores inside one operation at a time, GPU memory taken as it is needed.

    The convolutions use every core by themselves; two operations at once only fight over the cache.
    """
    config = tf.ConfigProto(
        intra_op_parallelism_threads=cores(),
        inter_op_parallelism_threads=1,
        use_per_session_threads=True,
        allow_soft_placement=True,
    )
    config.gpu_options.allow_growth = True
    return tf.Session(config=config)
