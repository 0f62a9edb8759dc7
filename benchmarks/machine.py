"""What a benchmark was measured on, and the name of its file: one for each kind of processor."""

import platform
import re
import subprocess
from pathlib import Path

# What decides how fast convolutions are: hardware for bfloat16 products, without it the widest vectors.
BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")
VECTORS = ("avx512f", "avx2", "sve", "asimd")


def machine():
    """The processor, its cores and deciding features, and the system; the contestants' `about` names the device."""
    from training.stderr import import_tensorflow  # here, because the tables do without TensorFlow

    import_tensorflow()
    from training.device import cores

    return {
        "cpu": processor(),
        "features": features(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor(cpuinfo=None):
    """The processor's name. `cpuinfo` is the text of /proc/cpuinfo."""
    found = re.search(r"^model name\s*: (.*)$", _cpuinfo() if cpuinfo is None else cpuinfo, re.MULTILINE)
    if found:
        return found[1]
    return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def features(cpuinfo=None):
    """Those of BFLOAT16 that the processor has or, without any, its widest of VECTORS."""
    found = re.search(r"^(?:flags|Features)\s*: (.*)$", _cpuinfo() if cpuinfo is None else cpuinfo, re.MULTILINE)
    has = set(found[1].split()) if found else set()
    return [name for name in BFLOAT16 if name in has] or [name for name in VECTORS if name in has][:1]


def slug(name, features=()):
    """A file's name for a kind of processor: "AMD EPYC" with ["avx512_bf16"] is amd-epyc-avx512_bf16."""
    plain = re.sub(r"\((R|TM|C)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", name, flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", plain.lower()) or ["unnamed"]
    return "-".join([*words, *features])


def gpu_memory():
    """MiB of the first GPU's memory that are in use by anyone, or None."""
    first = _output("nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits").split("\n")[0]
    return int(first) if first.isdigit() else None


def gpu_driver():
    return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0] or None


def _cpuinfo():
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
