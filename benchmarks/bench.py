"""Measures the training speed of train.py and of other implementations; takes half an hour on two cores.

Nothing else should run on the machine. Every implementation is a process that builds its network and warms up once.
On a CPU the processes then take turns, so that a machine whose speed drifts slows all of them equally. On a GPU they
are measured one after another, the most important first, within --budget seconds. The result, a JSON file, goes to
results/bench if all flags have their defaults, else to runs/bench. All implementations also take the flags of train.py.
"""

import argparse
import contextlib
import json
import platform
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

import summarize
from runner import Implementation
from worker import ROOT

from analysis.formatting import as_text
from training.cli import cores
from training.flags import Formatter, count

IMPLEMENTATIONS = {  # name to script and its flags, the most important first
    "train.py-bfloat16": ["train_step.py", "--precision", "bfloat16"],
    "pytorch-bfloat16-compiled": ["pytorch.py", "--precision", "bfloat16", "--compile"],
    "pytorch-bfloat16": ["pytorch.py", "--precision", "bfloat16"],
    "convolutions-bfloat16": ["convolutions.py", "--precision", "bfloat16"],
    "averages": [],  # AVERAGES
    "train.py-float32": ["train_step.py", "--precision", "float32"],
    "pytorch-float32-compiled": ["pytorch.py", "--precision", "float32", "--compile"],
    "pytorch-float32": ["pytorch.py", "--precision", "float32"],
    "convolutions-float32": ["convolutions.py", "--precision", "float32"],
    "tf1-baseline": ["tf1_baseline.py"],
}
EIGHT_DECAYS = "0.998 0.999 0.9995 0.9998 0.9999 0.99 0.95 0.9"
AVERAGES = {  # train.py with 0, 1 and 8 averages, in its faster precision
    "averages-0": ["train_step.py", "--no_ema"],
    "averages-1": ["train_step.py", "--ema_decay", "0.998"],
    "averages-8": ["train_step.py", "--ema_decay", *EIGHT_DECAYS.split()],
}
STEPS = {"cpu": 20, "gpu": 100}  # per turn
BATCH_SIZES = {"cpu": [64], "gpu": [64, 512]}
BUDGET = {"cpu": None, "gpu": 510.0}  # seconds
TIMEOUT = 600  # seconds for a warm-up or a turn without a budget


class Group(NamedTuple):
    """Implementations that take turns."""

    commands: dict  # name to script and its flags
    batch_size: int
    rounds: int
    steps: int  # per turn


def parse(argv=None):
    parser = argparse.ArgumentParser("bench.py", description=__doc__, formatter_class=Formatter, allow_abbrev=False)
    add, names = parser.add_argument, list(IMPLEMENTATIONS)
    add("--device", choices=list(STEPS), default="cpu", help="device of all implementations")
    add("--only", nargs="+", choices=names, default=names, metavar="NAME", help="some of %(choices)s")
    add("--rounds", type=count, default=10, help="turns of each implementation; eight times as many for averages")
    add("--batch_sizes", type=count, nargs="+", help="images per step (default: 64, on a GPU 64 and 512)")
    add("--budget", type=float, help="seconds for everything, one after another (default: in turns, on a GPU 510)")
    add("--output", type=Path, help="file of the result (default: named after the processor)")
    options, options.flags = parser.parse_known_args(argv)
    options.batch_sizes = options.batch_sizes or BATCH_SIZES[options.device]
    options.budget = options.budget or BUDGET[options.device]
    return options


def main(argv=None):
    options = parse(argv)
    settings = {name: getattr(options, name) for name in ("device", "rounds", "budget", "flags")}
    result = {"settings": settings, "machine": machine(), "rows": [], "skipped": {}}
    end = time.monotonic() + options.budget if options.budget else None
    for number, group in enumerate(groups(options)):
        measure(group, number, options, end, result)
        if result["rows"]:
            path = save(result, ROOT / "runs" / "bench", options.output)
    if not result["rows"]:
        sys.exit(f"bench.py: nothing was measured: {'; '.join(sorted(set(result['skipped'].values())))}")
    if options == parse([f"--device={options.device}"]) and not result["skipped"]:
        path = save(result, summarize.RESULTS)
    print(f"{summarize.render(result, as_text)}\n\nevery sample is in {path}")


def groups(options):
    """Returns the list of Groups, in the order in which they are measured."""
    rounds, steps, sizes = options.rounds, STEPS[options.device], options.batch_sizes
    # Averages differ little: compare them in many short rounds, during which the machine's speed stays the same.
    averages = Group(AVERAGES, sizes[0], 8 * rounds, steps // 10)
    chosen = {name: command for name, command in IMPLEMENTATIONS.items() if name in options.only}
    if not options.budget:
        last = [averages] if chosen.pop("averages", None) is not None else []
        return [Group(chosen, size, rounds, steps) for size in sizes if chosen] + last
    alone = []
    for name, command in chosen.items():
        at_sizes = [Group({name: command}, size, rounds, steps) for size in sizes]
        alone += [averages] if name == "averages" else at_sizes
    return alone


def measure(group, number, options, end, result):
    """Measures a Group; adds its rows and the reasons for skipped implementations to `result`."""
    flags = [f"--device={options.device}", f"--batch_size={group.batch_size}", *options.flags]
    fastest = summarize.fastest(result["rows"], "train.py")
    if group.commands is AVERAGES and fastest:
        flags.append(f"--precision={fastest['about']['precision']}")
    commands = {
        name: [sys.executable, ROOT / "benchmarks" / script, *own, *flags]
        for name, (script, *own) in group.commands.items()
    }
    shared = {"group": number, "batch_size": group.batch_size, "steps": group.steps}
    for name, process in take_turns(commands, group.rounds, group.steps, end).items():
        if process.failure:
            result["skipped"][f"{name}, batch {group.batch_size}"] = process.failure
            continue
        measured = {"about": process.about, "seconds": process.seconds, "peak_bytes": process.peak_bytes}
        result["rows"].append({"name": name, **shared, **measured})
    parameters = {row["about"].get("parameters") for row in result["rows"]} - {None}
    if len(parameters) > 1:
        sys.exit(f"bench.py: the networks differ in their number of parameters: {parameters}")


def take_turns(commands, rounds, steps, limit=None, timeout=TIMEOUT):
    """Warms up implementations, name to command; then they take turns, every other round in reverse order.

    All answers are due at `limit` on the clock of time.monotonic, or each within `timeout` seconds if it is None.

    Returns:
      Name to runner.Implementation; its process has ended.
    """
    processes = {}
    with contextlib.ExitStack() as stack:
        for name, command in commands.items():
            print(f"warming up {name}", file=sys.stderr)
            processes[name] = Implementation(command, limit or time.monotonic() + timeout)
            stack.callback(processes[name].close)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            order = list(processes.values())
            for process in order if number % 2 == 0 else order[::-1]:
                process.take_turn(steps, limit or time.monotonic() + timeout)
    return processes


def machine(cpuinfo=Path("/proc/cpuinfo")):
    """Returns the processor's name, family, model and cores, and the system; family and model may be None."""
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    family, model = (int(fields[key]) if key in fields else None for key in ("cpu family", "model"))
    name = fields.get("model name") or platform.processor() or platform.machine()
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {"cpu": name, "family": family, "model": model, "cores": cores(), "system": system}


def save(result, folder, file=None):
    """Writes the result to `file`, by default to a file in `folder` named after the processor; returns the path."""
    path = file or folder / f"{summarize.slug(result)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


if __name__ == "__main__":
    main()
