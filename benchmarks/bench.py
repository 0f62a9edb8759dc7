"""Training speed beside its peers: `python benchmarks/bench.py`, about ten minutes on two cores.

Every contestant is a process of its own that builds and warms up once. They then take turns, round by round and one at
a time, so that a machine whose speed drifts slows all of them alike; what is compared is the ratio within a round.
Nothing else should run meanwhile. The result goes to a JSON file with every sample, and the tables are made from that:
`--markdown` prints them from the file without measuring.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tables

HERE = Path(__file__).resolve().parent
TRAIN = HERE.parent / "train.py"
EVALUATIONS = 3
HELPS, FIRST_STEPS = 5, 3

# Name on the command line: what it is called in the table, its script and arguments.
CONTESTANTS = {
    "ours": ("train.py", "ours.py"),
    "ours-float32": ("train.py, float32", "ours.py --precision float32"),
    "ours-no-ema": ("train.py without EMA", "ours.py --no_ema"),
    "ours-2-decays": ("train.py, 2 decays", "ours.py --ema_decay 0.998 0.999"),
    "ours-3-decays": ("train.py, 3 decays", "ours.py --ema_decay 0.998 0.999 0.9995"),
    "torch-float32": ("PyTorch, float32", "pytorch.py --precision float32"),
    "torch-bfloat16": ("PyTorch, bfloat16", "pytorch.py --precision bfloat16"),
    "torch-float32-compiled": ("PyTorch, float32, compiled", "pytorch.py --precision float32 --compile"),
    "torch-bfloat16-compiled": ("PyTorch, bfloat16, compiled", "pytorch.py --precision bfloat16 --compile"),
    "habit": ("TF 1.x habit", "habit.py"),
    "ceiling": ("convolutions alone", "ceiling.py"),
}
OTHERS = ("evaluation", "startup")


class CannotRunError(Exception):
    """A process that cannot do here what is asked of it; says why."""


class Contestant:
    """One process, ready to take its turns."""

    def __init__(self, command):
        """Starts it and waits until it is warm.

        Raises:
          CannotRunError: it says that it cannot run here, or it ended.
        """
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        try:
            answer = self._answer()
            if "skip" in answer:
                raise CannotRunError(answer["skip"])
        except BaseException:
            self.close()
            raise
        self.about = answer["about"]

    def ask(self, *command):
        """Has it do one command; the dict that it answers."""
        print(*command, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self):
        for line in self.process.stdout:
            if line.startswith("{"):  # a library may print something of its own
                return json.loads(line)
        self.log.seek(0)
        raise CannotRunError(f"it ended with status {self.process.wait()}: {last_line(self.log.read())}")

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


def main(argv=None):
    options = parse(argv)
    if options.markdown:
        print(tables.markdown(json.loads(options.output.read_text())))
        return
    try:
        result = measure(options)
    except CannotRunError as error:
        sys.exit(f"bench.py: {error}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(tables.text(result))
    print(f"\nevery sample is in {options.output}")


def parse(argv):
    parser = argparse.ArgumentParser(
        prog="bench.py", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=20, help="training steps a turn; take 1000 or more on a GPU")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the channels, as in train.py")
    parser.add_argument("--train_size", type=int, default=50_000, help="images; CIFAR-10 has so many")
    parser.add_argument("--test_size", type=int, default=10_000)
    parser.add_argument("--device", choices=["auto", "cpu", "gpu"], default="auto")
    names = [*CONTESTANTS, *OTHERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="any of %(choices)s")
    parser.add_argument("--output", type=Path, default=Path("results/bench.json"))
    parser.add_argument("--markdown", action="store_true", help="print the tables of --output again, as Markdown")
    return parser.parse_args(argv)


def measure(options):
    """Everything asked for by --only; the dict that is written as JSON."""
    shared = [f"--{name}={getattr(options, name)}" for name in ("batch_size", "width", "device")]
    sizes = [f"--{name}={getattr(options, name)}" for name in ("train_size", "test_size")]
    startup = time_startup(shared, options.batch_size) if "startup" in options.only else {}
    with contextlib.ExitStack() as stack:
        contestants, skipped = start([name for name in CONTESTANTS if name in options.only], shared + sizes, stack)
        check_same_network(contestants)
        turns, evaluations = take_turns(contestants, options)
    return {
        "settings": {
            name: getattr(options, name)
            for name in ("rounds", "steps", "batch_size", "width", "train_size", "test_size")
        },
        "machine": machine(),
        "versions": {"python": platform.python_version()}
        | {
            library: contestant.about[library]
            for library in ("tensorflow", "torch")
            for contestant in contestants.values()
            if library in contestant.about
        },
        "contestants": {
            name: {
                "title": CONTESTANTS[name][0],
                "about": contestant.about,
                "seconds": [turn["seconds"] for turn in turns[name]],
                "peak_bytes": turns[name][-1]["peak_bytes"],
            }
            for name, contestant in contestants.items()
        },
        "skipped": {CONTESTANTS[name][0]: sentence for name, sentence in skipped.items()},
        "evaluation": [evaluation["seconds"] for evaluation in evaluations],
        "startup": startup,
    }


def start(names, arguments, stack):
    """Starts contestants one after another, each warm before the next.

    Returns:
      (name to Contestant, name to why it cannot run).
    """
    contestants, skipped = {}, {}
    for name in names:
        say(f"warming up {name}")
        script, *own = CONTESTANTS[name][1].split()
        try:
            contestants[name] = Contestant([sys.executable, str(HERE / script), *arguments, *own])
            stack.callback(contestants[name].close)
        except CannotRunError as error:
            skipped[name] = str(error)
            say(f"skipping {name}: {error}")
    return contestants, skipped


def check_same_network(contestants):
    counts = {name: c.about["parameters"] for name, c in contestants.items() if "parameters" in c.about}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"bench.py: the contestants' networks differ in their number of parameters: {counts}")


def take_turns(contestants, options):
    """Round by round, one contestant at a time.

    Returns:
      (name to answers, answers of the evaluations).
    """
    turns, evaluations = {name: [] for name in contestants}, []
    for number in range(1, options.rounds + 1):
        say(f"round {number} of {options.rounds}")
        for name, contestant in contestants.items():
            turns[name].append(contestant.ask("run", options.steps))
        if "evaluation" in options.only and "ours" in contestants and number <= EVALUATIONS:
            evaluations.append(contestants["ours"].ask("evaluate"))
    return turns, evaluations


def time_startup(arguments, batch_size):
    """Wall time of whole processes, in seconds: `train.py --help`, and train.py until its first step is done."""
    say("timing the start")
    first_step = [HERE / "first_step.py", "--dataset=synthetic", f"--train_size={batch_size}", *arguments]
    with tempfile.TemporaryDirectory() as directory:
        return {
            "help": [process_seconds([TRAIN, "--help"]) for _ in range(HELPS)],
            "first_step": [
                process_seconds([*first_step, f"--run_dir={directory}/{number}"]) for number in range(FIRST_STEPS)
            ],
        }


def process_seconds(command):
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise CannotRunError(f"{Path(command[0]).name} ended with status {done.returncode}: {last_line(done.stderr)}")
    return seconds


def last_line(text):
    return (text.strip().splitlines() or ["no message"])[-1]


def machine():
    """What it was measured on; the contestants' `about` names the device."""
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "cpu": name[1] if name else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def say(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
