"""Training speed beside its peers, about half an hour on two cores; nothing else should run meanwhile.

Every contestant is a process of its own that builds and warms up once. On a CPU they then take turns, round by round
and one at a time, so that a machine whose speed drifts slows all of them alike. On a GPU they are measured one after
another, the most important first, within --budget seconds. The result is a JSON file with every sample: that of a whole
run with the defaults goes into results/bench, every other into runs/bench. Flags that are not among these are those of
train.py, such as --width, for all contestants.
"""

import argparse
import contextlib
import json
import platform
import re
import sys
import time
from pathlib import Path

import summarize
from runner import CannotRunError, Contestant
from worker import ROOT, cores

from analysis.formatting import as_text
from training.flags import Formatter, count

HERE = Path(__file__).resolve().parent
CONTESTANTS = {  # name to script and flags, the most important first
    "train.py-bfloat16": ["train_step.py", "--precision", "bfloat16"],
    "pytorch-bfloat16-compiled": ["pytorch.py", "--precision", "bfloat16", "--compile"],
    "pytorch-bfloat16": ["pytorch.py", "--precision", "bfloat16"],
    "convolutions-bfloat16": ["convolutions.py", "--precision", "bfloat16"],
    "train.py-float32": ["train_step.py", "--precision", "float32"],
    "pytorch-float32-compiled": ["pytorch.py", "--precision", "float32", "--compile"],
    "pytorch-float32": ["pytorch.py", "--precision", "float32"],
    "convolutions-float32": ["convolutions.py", "--precision", "float32"],
    "tf1-habit": ["tf1_baseline.py"],
}
AVERAGES = {  # so many of them, in the precision in which train.py is faster
    "averages-0": ["train_step.py", "--no_ema"],
    "averages-1": ["train_step.py", "--ema_decay", "0.998"],
    "averages-8": [
        "train_step.py",
        "--ema_decay",
        "0.998",
        "0.999",
        "0.9995",
        "0.9998",
        "0.9999",
        "0.99",
        "0.95",
        "0.9",
    ],
}
STEPS = {"cpu": 20, "gpu": 100}  # of a turn
BATCH_SIZES = {"cpu": [64], "gpu": [64, 512]}
BUDGET = {"cpu": None, "gpu": 510.0}
LIMIT = 600  # seconds for a contestant to get warm, or to take a turn, where there is no budget
SHARE = 1 / 3  # of the budget, for one contestant: one that hangs must not cost all others


def parse(argv=None):
    parser = argparse.ArgumentParser("bench.py", description=__doc__, formatter_class=Formatter, allow_abbrev=False)
    add, names = parser.add_argument, [*CONTESTANTS, "averages"]
    add("--device", choices=list(STEPS), default="cpu", help="where all contestants run")
    add("--only", nargs="+", choices=names, default=names, metavar="NAME", help="some of %(choices)s")
    add("--rounds", type=count, default=10, help="turns of each contestant; eight times as many for averages")
    add("--batch_sizes", type=count, nargs="+", help="images in a step (default: 64, on a GPU 64 and 512)")
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
    for _ in measure(options, result):
        path = save(result, ROOT / "runs" / "bench", options.output)
    if not result["rows"]:
        sys.exit(f"bench.py: nothing was measured: {'; '.join(sorted(set(result['skipped'].values())))}")
    if is_whole(options, result["skipped"]):
        path = save(result, summarize.RESULTS)
    print(f"{summarize.everything(result, as_text)}\n\nevery sample is in {path}")


def is_whole(options, skipped):
    """Whether a run had the default settings, and nothing was left out: only such a one may replace a kept result."""
    return options == parse([f"--device={options.device}"]) and not skipped


def machine(cpuinfo=Path("/proc/cpuinfo")):
    """The processor's name, family, model and cores, and the system."""
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    family, model = (int(found[key]) if key in found else None for key in ("cpu family", "model"))
    name = found.get("model name") or platform.processor() or platform.machine()
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {"cpu": name, "family": family, "model": model, "cores": cores(), "system": system}


def save(result, folder, file=None):
    """Writes the result to `file`, else to one in `folder` that is named after the processor; returns the path."""
    path = file or folder / f"{summarize.slug(result)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def measure(options, result):
    """Adds rows to the result, group after group; yields after each, so that what is there can be saved."""
    end = time.monotonic() + (options.budget or 0)
    for index, (group, batch_size) in enumerate(groups(options)):
        limit = min(end, time.monotonic() + SHARE * options.budget) if options.budget else None
        rounds, steps = options.rounds, STEPS[options.device]
        flags = [f"--device={options.device}", f"--batch_size={batch_size}", *options.flags]
        if group is AVERAGES:
            rounds, steps = 8 * rounds, steps // 10  # small costs: many rounds, each while the machine stays the same
            if fastest := summarize.fastest(result["rows"], "train.py"):
                flags.append(f"--precision={fastest['about']['precision']}")
        commands = {name: [sys.executable, HERE / file, *own, *flags] for name, (file, *own) in group.items()}
        rows, skipped = take_turns(commands, rounds, steps, limit)
        shared = {"group": index, "batch_size": batch_size, "steps": steps}
        result["rows"] += [{"name": name, **shared, **row} for name, row in rows.items()]
        result["skipped"] |= {f"{name}, batch {batch_size}": why for name, why in skipped.items()}
        parameters = {row["about"].get("parameters") for row in result["rows"]} - {None}
        if len(parameters) > 1:
            sys.exit(f"bench.py: the contestants' networks differ in their number of parameters: {parameters}")
        if result["rows"]:
            yield


def groups(options):
    """(name to script and flags, batch size) of the contestants that take turns, group after group."""
    chosen = {name: command for name, command in CONTESTANTS.items() if name in options.only}
    averages = [(AVERAGES, options.batch_sizes[0])] if "averages" in options.only else []
    if not options.budget:
        return [*((chosen, size) for size in options.batch_sizes if chosen), *averages]
    alone = [({name: command}, size) for name, command in chosen.items() for size in options.batch_sizes]
    before = sum("bfloat16" in name for group, _ in alone for name in group)  # averages matter more than float32
    return alone[:before] + averages + alone[before:]


def take_turns(commands, rounds, steps, limit=None, patience=LIMIT):
    """Starts and warms up contestants, name to command; then they take turns, every other round backwards.

    All has to be done by `limit`, on the clock of time.monotonic; None gives `patience` seconds for each answer.

    Returns:
      Name to {"about", "seconds" of each round, "peak_bytes"}; name to why, of those that failed: the others go on.
    """
    contestants, rows, skipped = {}, {}, {}
    with contextlib.ExitStack() as stack:

        def attempt(name, function, argument):
            try:
                return function(argument, limit or time.monotonic() + patience)
            except CannotRunError as error:
                skipped[name] = str(error)
                print(f"{name} is left out: {error}", file=sys.stderr)

        for name, command in commands.items():
            print(f"warming up {name}", file=sys.stderr)
            if contestant := attempt(name, Contestant, command):
                stack.callback(contestant.close)
                contestants[name], rows[name] = contestant, {"about": contestant.about, "seconds": []}
        for number in range(rounds if rows else 0):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for name in list(rows) if number % 2 == 0 else list(rows)[::-1]:
                if answer := attempt(name, contestants[name].run, steps):
                    rows[name]["seconds"].append(answer["seconds"])
                    rows[name]["peak_bytes"] = answer["peak_bytes"]
                else:
                    del rows[name]
    return rows, skipped


if __name__ == "__main__":
    main()
