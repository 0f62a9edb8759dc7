"""The experiments behind the numbers of the READMEs, and the runs that they are made of.

    python results/experiments.py gain              # prints the commands that make it, but for what is there
    python results/experiments.py gain --collect    # keeps in results/ what they left in runs/, and makes the reports
    python results/experiments.py --check           # status 1 where a report is not what the runs kept make

Without a name: all of them. `make results NAME=gain` does the first two. A run is known by the flags in its
config.json: where another one lies in its directory, nothing is continued, kept or compared.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.cli import UserError, one_line_errors  # noqa: E402
from training.flags import RESUMABLE_FLAGS, build_parser, load_config, load_flags, load_precision  # noqa: E402

EXPERIMENTS = {  # and what they show
    "guide": "the guide as it is",
    "gain": "constant rate",
    "cooldown": "rate annealed to 0",
    "wide": "width 1",
    "float32": "constant rate",
    "noise": "40% wrong labels",
    "noise_cooldown": "40% wrong labels, annealed",
    "augment": "augmentation, 40 epochs",
    "augment_cooldown": "augmentation, 40 epochs, annealed",
    "length": "the guide's 256 epochs",
    "starts": "starts and batch statistics, first epochs",
}
REPORTS = {"guide": "guide", "gain": "gain cooldown", "noise": "noise", "augment": "augment augment_cooldown"}  # over


class Run(NamedTuple):
    name: str  # its directory below runs/ and results/
    flags: str  # of train.py
    trunk: "Run | None" = None  # the run that it continues a copy of


def alone(name, flags, seeds):
    return [Run(f"{name}{seed}", f"{flags} --seed {seed}") for seed in seeds]


def continued(name, flags, trunks):
    return [Run(f"{name}/seed-{seed}", f"{trunk.flags} {flags}", trunk) for seed, trunk in enumerate(trunks)]


BFLOAT16, POWER = "--precision bfloat16", "--ema_power 0.05 0.1"
HELD_OUT = "--validation_size 5000 --ema_start unbiased --ema_batch_stats recomputed raw"
DECAYS = f"{HELD_OUT} --ema_decay 0.998 0.99 0.995 0.999 0.9995 0.9998"
MANY = f"--width 0.5 {DECAYS} --eval_every 4"
LONG = f"--width 0.5 {HELD_OUT} --ema_decay 0.998 0.999 0.9995 0.9998 {BFLOAT16}"
STARTS = "--width 0.5 --epochs 3 --ema_batch_stats raw averaged recomputed --ema_start"
GAIN = alone("gain/trunk-", f"{MANY} {POWER} --epochs 16", (0, 1, 2))
GAIN += alone("gain/trunk-", f"{MANY} {POWER} --epochs 16 {BFLOAT16}", (3, 4))
NOISE = alone("noise_cooldown/trunk-", f"{MANY} --label_noise 0.4 --epochs 16 {BFLOAT16}", (0, 1))
AUGMENT = alone("augment/trunk-", f"{LONG} --augment --eval_every 4 --epochs 32", (0, 1))
RUNS = [
    *alone("guide/seed-", "--epochs 20", (0,)),
    *continued("gain", "--epochs 20", GAIN),
    *continued("cooldown", "--epochs 20 --lr_cooldown 4", GAIN),
    *alone("wide/seed-", f"{DECAYS} {POWER} --eval_every 10 --epochs 20", (1,)),
    *alone("float32/seed-", f"{MANY} --epochs 20 --precision float32", (0, 1, 2)),
    *alone("noise/seed-", f"{MANY} {POWER} --epochs 20 --label_noise 0.4", (0, 1)),
    *continued("noise_cooldown", "--epochs 20 --lr_cooldown 4", NOISE),
    *continued("augment", "--epochs 40", AUGMENT),
    *continued("augment_cooldown", "--epochs 40 --lr_cooldown 8", AUGMENT),
    *alone("length/seed-", f"{LONG} --epochs 256 --eval_every 16", (0,)),
    *alone("starts/initial-seed", f"{STARTS} initial", (0, 1)),
    *alone("starts/unbiased-seed", f"{STARTS} unbiased {POWER} 0.15", (0, 1)),
    *alone("starts/warmup-seed", f"{STARTS} warmup", (0, 1)),
]
FREE = RESUMABLE_FLAGS - {"epochs", "lr_cooldown", "eval_every", "strategy", "devices"}  # flags that change no result


def kept(experiment, results):
    """The finished runs of an experiment in `results`."""
    return [run for run in RUNS if run.name.startswith(f"{experiment}/") and is_finished(run, results)]


def is_finished(run, folder):
    """Whether a run has come to its end in its directory below `folder`; a UserError where another one lies there."""
    path = folder / run.name
    if not (path / "config.json").exists() or (run.trunk and not differences(run.trunk, path)):
        return False  # the latter is a copy that was not continued yet
    if other := differences(run, path):
        beside = shlex.join(["mv", str(path), f"{path}-other"])
        raise UserError(f"{path} is another run, by its {', '.join(other)}: move it away ({beside})")
    summary = path / "summary.json"
    return summary.exists() and json.loads(summary.read_text())["epoch"] == load_flags(path).epochs


def differences(run, path):
    """The flags with which the run in `path` is not `run`; of precision the one that was used counts."""
    wanted = vars(build_parser().parse_args(run.flags.split()))
    made = vars(load_flags(path)) | {"precision": load_precision(path)}
    if wanted["precision"] == "auto":
        wanted["precision"] = made["precision"]
    return [f"--{name}" for name in wanted if name not in FREE and wanted[name] != made[name]]


def commands(run, folder):
    """The shell commands that bring a run below `folder` to its end, and its trunk first."""
    path, lines = folder / run.name, []
    target, beside = shlex.quote(str(path)), shlex.quote(f"{path}.new")
    if run.trunk and not path.exists():  # copied beside first: what bears the name of a run is whole
        copy = f"rm -rf {beside} && mkdir -p {beside} && cp -r {shlex.quote(str(folder / run.trunk.name))}/. {beside}"
        lines = [*commands(run.trunk, folder), f"{copy} && mv {beside} {target}"]
    if not is_finished(run, folder):
        resume = "--resume " if run.trunk or (path / "config.json").exists() else ""
        lines.append(f"python train.py {resume}--run_dir {target} {run.flags}")
    return lines


def keep(run, folder, results):
    """Keeps the small files of a finished run; nothing in them names a directory of this machine."""
    path, target = folder / run.name, results / run.name
    target.mkdir(parents=True, exist_ok=True)
    config = load_config(path)
    config["flags"] |= {"run_dir": f"runs/{run.name}", "data_dir": None}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    log = (path / "train.log").read_text().replace(str(folder), "runs").replace(f"{folder.parent}/", "")
    (target / "train.log").write_text(re.sub(r"(?<=CIFAR-10 from )/.*/(?=cifar10/)", "", log))
    for file in ("metrics.jsonl", "table.json", "posthoc.json", "summary.json"):  # the last one says that all are there
        if (path / file).exists():  # the two in between are what evaluate.py said
            shutil.copyfile(path / file, target / file)


def make_reports(names, results, output):
    """Makes the reports that are over experiments of these names, each in <output>/<report>/report."""
    started = {}
    for report, over in REPORTS.items():
        folders = [f"{results.name}/{name}" for name in over.split() if (results / name).exists()]
        if folders and set(over.split()) & set(names):
            command = [sys.executable, ROOT / "report.py", *folders, "--output", output / report / "report"]
            started[report] = subprocess.Popen(command, cwd=results.parent, stdout=subprocess.DEVNULL)
    if failed := [report for report, process in started.items() if process.wait()]:
        raise UserError(f"report.py made no report of {failed[0]}: mend what it says above, then do this again")


def check_reports(names, results):
    """Makes the reports again; a UserError where their tables are not those kept."""
    with tempfile.TemporaryDirectory() as output:
        make_reports(names, results, Path(output))
        for file in Path(output).glob("*/report/report.json"):
            there = results / file.relative_to(output)
            if not there.exists() or there.read_text() != file.read_text():
                again = f"python results/experiments.py --collect {there.parts[-3]}"
                raise UserError(f"{there} is not what the runs beside it make: {again}")


def main(argv=None, results=ROOT / "results"):
    """The command, for runs that are kept in `results`."""
    parser = argparse.ArgumentParser(prog="experiments.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="experiments (default: all)")
    parser.add_argument("--collect", action="store_true", help="keep finished runs, and make their reports")
    parser.add_argument("--check", action="store_true", help="compare the reports with the runs kept")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where runs are made")
    args = parser.parse_args(argv)
    names = args.names or list(EXPERIMENTS)
    if unknown := set(names) - set(EXPERIMENTS):
        parser.error(f"{unknown.pop()!r} is not an experiment: choose from {', '.join(EXPERIMENTS)}")
    missing = [run for run in RUNS if run.name.split("/")[0] in names and not is_finished(run, results)]
    if args.check:
        check_reports(names, results)
    elif args.collect:
        for run in missing:
            if is_finished(run, args.runs):
                keep(run, args.runs.resolve(), results)
        make_reports(names, results, results)
    else:
        lines = [line for run in missing for line in commands(run, args.runs)]
        print(*(f"# {name}: {EXPERIMENTS[name]}" for name in names), *dict.fromkeys(lines), sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main()
