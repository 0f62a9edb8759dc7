"""The experiments behind the README's numbers: what each shows, and the commands that make it again.

    python results/experiments.py                  # what there is
    python results/experiments.py --run gain       # one of them: trains what is missing, and collects what it left
    python results/experiments.py --run            # all of them, which takes days on a small machine
    python results/experiments.py --collect gain   # only collects, from runs that are finished

Runs are made in runs/<experiment>/<run>; what is kept of them in results/<experiment>/<run> is everything but
checkpoints and snapshots, and of the predictions those that a report reads. A run that is there already is skipped, one
that was cut off goes on.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from analysis.finished import read_run  # noqa: E402
from analysis.series import run_to_end  # noqa: E402
from training.errors import or_exit  # noqa: E402

from analysis.run_files import read_predictions  # noqa: E402

KEPT = ("config.json", "metrics.jsonl", "train.log", "table.json", "posthoc.json", "summary.json")  # that one is last


class Run(NamedTuple):
    """One command of train.py."""

    name: str  # directory below the experiment's
    flags: str
    trunk: str | None = None  # "<experiment>/<run>" that it continues a copy of
    kept: bool = True  # whether it is collected, or only a trunk of others
    after: tuple = ()  # sub-commands of evaluate.py whose answers are kept


class Experiment(NamedTuple):
    shows: str
    runs: tuple
    report: bool = False  # a report over the runs kept, with those of `beside`
    beside: tuple = ()  # other experiments


SEEDS = (0, 1, 2)
TABLE, POSTHOC = ("table",), ("table", "posthoc")
AVERAGES = (
    "--validation_size 5000 --ema_decay 0.998 0.99 0.995 0.999 0.9995 0.9998 --ema_start unbiased "
    "--ema_batch_stats recomputed raw --ema_power 0.05 0.1 --snapshots 4 --eval_every 4"
)
MANY = f"--width 0.5 {AVERAGES}"
STARTS = "--width 0.5 --epochs 3 --ema_batch_stats raw averaged recomputed"
BEST = "--augment --label_smoothing 0.1 --lr_cooldown 10 --ema_start unbiased --ema_batch_stats recomputed raw"

EXPERIMENTS = {
    "guide": Experiment(
        "what `python train.py` alone gives: width 1, 20 epochs, the guide's settings",
        (Run("seed-0", "--epochs 20", after=TABLE),),
        report=True,
    ),
    "wide": Experiment(
        "the averages of gain at width 1; evaluated twice, not five times, which takes as long as two epochs there",
        (Run("seed-1", f"{AVERAGES} --eval_every 10 --epochs 20 --seed 1", after=TABLE),),
        report=True,
    ),
    "gain": Experiment(
        "the gain of EMA over whole runs at a constant learning rate, by decay, epoch and post-hoc width",
        (
            *(Run(f"trunk-{seed}", f"{MANY} --epochs 16 --seed {seed}", kept=False) for seed in SEEDS),
            *(Run(f"seed-{seed}", "--epochs 20", f"gain/trunk-{seed}", after=POSTHOC) for seed in SEEDS),
        ),
        report=True,
        beside=("cooldown",),
    ),
    "cooldown": Experiment(
        "the same runs with a learning rate that falls to 0 over the last 4 of 20 epochs",
        tuple(Run(f"seed-{seed}", "--epochs 20 --lr_cooldown 4", f"gain/trunk-{seed}", after=TABLE) for seed in SEEDS),
    ),
    "noise": Experiment(
        "the same runs with 40% of the training labels wrong",
        tuple(
            Run(f"seed-{seed}", f"{MANY} --epochs 20 --label_noise 0.4 --seed {seed}", after=TABLE)
            for seed in SEEDS[:2]
        ),
        report=True,
    ),
    "starts": Experiment(
        "starts and batch statistics over the first epochs",
        tuple(
            Run(f"{start}-seed{seed}", f"{STARTS} --ema_start {start} {more} --seed {seed}".replace("  ", " "))
            for start, more in (("initial", ""), ("unbiased", "--ema_power 0.05 0.1 0.15"), ("warmup", ""))
            for seed in SEEDS[:2]
        ),
    ),
    "best": Experiment(
        "the best recipe at width 1, towards the accuracies published for this family of networks",
        (Run("seed-0", f"{BEST} --epochs 60 --validation_size 5000 --ema_decay 0.999 0.9995"),),
        report=True,
    ),
}


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="experiments.py", description="The experiments behind the README's numbers.", allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run", nargs="*", metavar="NAME", help="experiments to make, all where none is named")
    what.add_argument("--collect", nargs="*", metavar="NAME", help="experiments to collect from finished runs")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", metavar="DIR", help="where runs are made")
    args = parser.parse_args(argv)
    chosen = args.run if args.run is not None else args.collect
    if chosen is None:
        return show()
    if unknown := [name for name in chosen if name not in EXPERIMENTS]:
        parser.error(f"{unknown[0]!r} is not an experiment: choose from {', '.join(EXPERIMENTS)}")
    runs = args.runs.resolve()
    for name in chosen or EXPERIMENTS:
        for run in EXPERIMENTS[name].runs if args.run is not None else ():
            if is_wanted(name, run):
                train(runs, name, run)
        collect(runs, name)


def show():
    """Prints every experiment, and what is there of it."""
    for name, experiment in EXPERIMENTS.items():
        kept = [run for run in experiment.runs if run.kept]
        there = sum(is_collected(name, run) for run in kept)
        print(f"{name}: {experiment.shows} ({there} of {len(kept)} runs are there)")
        for run in experiment.runs:
            for command in commands(Path("runs"), name, run):
                print(f"    {command}")


def directory(runs, name, run):
    return runs / name / run.name


def is_collected(name, run):
    return (directory(ROOT / "results", name, run) / "summary.json").exists()


def is_wanted(name, run):
    """Whether a run is still to be made: one that is kept, or a trunk for one of those."""
    trunk_of = [
        (other, one)
        for other, experiment in EXPERIMENTS.items()
        for one in experiment.runs
        if one.trunk == f"{name}/{run.name}"
    ]
    return not all(is_collected(*one) for one in ([(name, run)] if run.kept else trunk_of))


def commands(runs, name, run):
    """The command lines that make a run from nothing, or from its trunk."""
    path = shlex.quote(str(directory(runs, name, run)))
    if not run.trunk:
        return [f"python train.py {run.flags} --run_dir {path}"]
    trunk = shlex.quote(str(runs / run.trunk))
    return [f"cp -r {trunk} {path}", f"python train.py --resume --run_dir {path} {run.flags}"]


def train(runs, name, run):
    """Trains a run to its end, and first its trunk, unless it is there; a run that was cut off is continued."""
    path = directory(runs, name, run)
    if (path / "summary.json").exists() and not is_only_copied(path, run):
        return
    if run.trunk and not path.exists():
        other, _, trunk = run.trunk.partition("/")
        train(runs, other, next(one for one in EXPERIMENTS[other].runs if one.name == trunk))
        copy(runs / run.trunk, path)
    resume = ["--resume"] if (path / "config.json").exists() else []
    call("train.py", *resume, "--run_dir", path, *shlex.split(run.flags))


def copy(source, target):
    """Copies a directory beside first: what bears the name of `target` is whole."""
    beside = target.with_name(f".{target.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, beside)
    beside.rename(target)


def is_only_copied(path, run):
    """Whether what is in a directory is still the end of the trunk that it was copied from."""
    asked = shlex.split(run.flags)
    return bool(run.trunk) and read_json(path / "summary.json")["epoch"] < int(asked[asked.index("--epochs") + 1])


def call(script, *arguments):
    """Runs one of the scripts to its end, and ends with its status where that is not 0; Ctrl-C lets it save first."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    print(shlex.join(command), flush=True)
    if status := run_to_end(command, ROOT):
        sys.exit(status)


def read_json(path):
    return json.loads(path.read_text())


# ---------------------------------------------------------------------------------------------------------------
# Collecting


def collect(runs, name):
    """Copies what is kept of every finished run into results/, and makes the reports that it is in."""
    reports = [one for one, other in EXPERIMENTS.items() if other.report and name in (one, *other.beside)]
    for run in EXPERIMENTS[name].runs:
        path = directory(runs, name, run)
        finished = (path / "summary.json").exists() and not is_only_copied(path, run)
        if run.kept and finished and not is_collected(name, run):
            for command in run.after:
                evaluate(path, command)
            keep(path, directory(ROOT / "results", name, run), with_predictions=bool(reports))
    for one in reports:
        make_report(one)


def evaluate(path, command):
    """Lets evaluate.py answer, unless it has: table.json and posthoc.json in the run directory."""
    if (path / f"{command}.json").exists():
        return
    arguments = [sys.executable, str(ROOT / "evaluate.py"), command, "--run_dir", str(path)]
    if command == "posthoc":  # writes its file itself
        subprocess.run(arguments, check=True)
    else:
        answer = subprocess.run([*arguments, "--format", "json"], check=True, stdout=subprocess.PIPE, text=True).stdout
        (path / f"{command}.json").write_text(answer)


def keep(path, target, with_predictions):
    """Keeps the small files of a run and, of its predictions, those of the primary EMA and its baseline, bit for bit.

    Loss, calibration and churn are made of these.
    """
    target.mkdir(parents=True, exist_ok=True)
    if with_predictions:
        found = read_predictions(read_run(path))
        answers = {found.against: found.baseline, found.primary: found.ema}
        np.savez_compressed(target / "predictions.npz", labels=found.labels.astype(np.uint8), **answers)
    for file in KEPT:
        if (path / file).exists():
            (target / file).write_text(shortened((path / file).read_text(), path))


def shortened(text, path):
    """The text of a log without the directories of the machine that it was made on."""
    data_dir = read_json(path / "config.json")["flags"].get("data_dir")
    lines = text.replace(str(path.parent.parent.parent.resolve()) + "/", "").splitlines(keepends=True)
    kept = []
    for line in lines:
        if line.startswith("data  ") and "CIFAR-10 from " in line:
            before, _, after = line.partition("CIFAR-10 from ")
            line = f"{before}CIFAR-10 from {after[after.index('cifar10/') :]}"
        kept.append(line.replace(data_dir, "DIR") if data_dir else line)
    return "".join(kept)


def make_report(name):
    """results/<name>/report/: report.json and the figures, over what is kept of an experiment and of those beside."""
    both = [(one, run) for one in (name, *EXPERIMENTS[name].beside) for run in EXPERIMENTS[one].runs if run.kept]
    found = [directory(ROOT / "results", *one) for one in both if is_collected(*one)]
    if found:
        output = ROOT / "results" / name / "report"
        shutil.rmtree(output, ignore_errors=True)
        call("report.py", *(path.relative_to(ROOT) for path in found), "--output", output)
        for file in [*output.glob("*.svg"), output / "report.html"]:  # large, and made again by the same command
            file.unlink()


if __name__ == "__main__":
    or_exit(main)
