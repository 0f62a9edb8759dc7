"""Training speed beside its peers: `python benchmarks/bench.py`, about twenty minutes on two cores.

Every contestant is a process of its own that builds and warms up once. They then take turns, round by round and one at
a time, so that a machine whose speed drifts slows all of them alike; what is compared is the ratio within a round.
Nothing else should run meanwhile. `--device gpu` measures what is worth knowing of a GPU instead, the most important
first, within --budget seconds, without network or data. The result goes to a JSON file with every sample, and the
tables are made from that: `--markdown` prints them from the file without measuring.
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import gpu
import side_by_side
import tables
from driver import HERE, CannotRunError
from machine import gpu_driver, machine, slug

sys.path.insert(0, str(HERE.parent))

from training.options import Formatter

CORES = "BENCHMARK_CORES"  # see contestant.py
RESULTS = HERE.parent / "results" / "bench"
REHEARSED = HERE.parent / "runs" / "bench-rehearsal.json"
SETTINGS = ("rounds", "steps", "batch_size", "width", "train_size", "test_size")


def main(argv=None):
    options = parse(argv)
    if options.markdown:
        print(tables.markdown(json.loads(options.output.read_text())))
        return
    described = machine()
    os.environ[CORES] = str(described["cores"])
    try:
        result, output = measure_gpu(options, described) if options.device == "gpu" else measure_cpu(options, described)
    except CannotRunError as error:
        sys.exit(f"bench.py: {error}")
    write(output, result)
    print(tables.text(result))
    print(f"\nevery sample is in {output}")


def parse(argv):
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__, formatter_class=Formatter)
    add = parser.add_argument
    add(
        "--device",
        choices=["cpu", "gpu"],
        default="cpu",
        help="contestants side by side, or the rows of a GPU",
    )
    add("--output", type=Path, help="file of the result (default: results/bench/<processor>.json)")
    add("--markdown", action="store_true", help="print the tables of --output again, as Markdown")
    group = parser.add_argument_group("on a CPU")
    add = group.add_argument
    add("--rounds", type=int, default=5, help="turns of each contestant")
    add("--steps", type=int, default=20, help="training steps in a turn")
    add("--average_rounds", type=int, default=80, help="turns of each number of decays, for the cost of averages")
    add("--average_steps", type=int, default=2, help="training steps in such a turn")
    add("--batch_size", type=int, default=64, help="images in a step")
    add("--width", type=float, default=1.0, help="factor of the channels, as in train.py")
    add("--train_size", type=int, default=50_000, help="images; CIFAR-10 has so many")
    add("--test_size", type=int, default=10_000, help="images; CIFAR-10 has so many")
    add("--data_dir", help="TFDS directory of CIFAR-10, for the time to the first step")
    names = [*side_by_side.CONTESTANTS, *side_by_side.OTHERS]
    add("--only", nargs="+", choices=names, default=names, metavar="NAME", help="any of %(choices)s")
    group = parser.add_argument_group("on a GPU")
    add = group.add_argument
    add("--budget", type=float, default=500.0, help="seconds for everything")
    add("--rehearse", action="store_true", help="the same rows on the CPU with tiny sizes, which measure nothing")
    options = parser.parse_args(argv)
    if options.markdown and not options.output:
        parser.error("--markdown needs --output: the file to print the tables of")
    return options


def measure_cpu(options, described):
    """(result, the file that it goes into)."""
    measured = side_by_side.measure(options)
    result = {
        "kind": "cpu",
        "settings": {name: getattr(options, name) for name in SETTINGS},
        "machine": described,
        "versions": versions(contestant["about"] for contestant in measured["contestants"].values()),
        **measured,
    }
    return result, options.output or RESULTS / f"{slug(described['cpu'], described['features'])}.json"


def measure_gpu(options, described):
    """(result, the file that it goes into); the file is there from the first row on, and grows."""
    sizes = gpu.REHEARSAL if options.rehearse else gpu.SIZES
    result = {
        "kind": "gpu",
        "rehearsal": options.rehearse,
        "settings": {"budget": options.budget} | sizes._asdict(),
        "machine": described | {"gpu_driver": gpu_driver()},
        "versions": {},
        "rows": {},
        "skipped": {},
    }

    def output():
        measured = RESULTS / f"{slug(tables.device_of(result).removeprefix('GPU, '))}.json"
        return options.output or (REHEARSED if options.rehearse else measured)

    def keep(name, measured):
        result["rows"][name] = measured
        result["versions"] = versions(row["about"] for row in result["rows"].values() if "about" in row)
        write(output(), result)

    result["skipped"] = gpu.measure(sizes, options.budget, keep)
    if not result["rows"]:
        raise CannotRunError(f"nothing could be measured: {next(iter(result['skipped'].values()))}")
    return result, output()


def versions(abouts):
    abouts = list(abouts)
    found = {library: about[library] for library in ("tensorflow", "torch") for about in abouts if library in about}
    return {"python": platform.python_version()} | found


def write(path, result):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
