"""The training runs behind the numbers in the README files; `make results NAME=gain` does the first two commands.

python results/experiments.py gain              # prints the commands that make the missing runs
python results/experiments.py gain --collect    # archives finished runs of runs/ in results/ and makes the reports
python results/experiments.py --check           # exit status 1 if a report differs from the archived runs
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis.groups import IGNORED_FLAGS  # noqa: E402
from analysis.run_files import read_run  # noqa: E402
from training.cli import UserError, one_line_errors  # noqa: E402
from training.flags import build_parser, load_flags, load_precision  # noqa: E402

REPORTS = (("guide",), ("gain", "cooldown"), ("noise",), ("augment", "augment_cooldown"))  # in the first's directory


class Run(NamedTuple):
    name: str  # its directory below runs/ and results/
    flags: str  # of train.py
    parent: "Run | None" = None  # the run whose copy it continues


def independent_runs(name, flags, seeds):
    """Returns one new run per seed."""
    return [Run(f"{name}{seed}", f"{flags} --seed {seed}") for seed in seeds]


def continued_runs(name, flags, parents):
    """Returns one run per parent, which resumes a copy of the parent with more flags."""
    return [Run(f"{name}/seed-{seed}", f"{parent.flags} {flags}", parent) for seed, parent in enumerate(parents)]


BFLOAT16, POWER, COOLDOWN = "--precision bfloat16", "--ema_power 0.05 0.1", "--epochs 20 --lr_cooldown 4"
VALIDATION = "--validation_size 5000 --ema_start unbiased --ema_batch_stats recomputed raw"
SIX_DECAYS = f"{VALIDATION} --ema_decay 0.998 0.99 0.995 0.999 0.9995 0.9998"
HALF_WIDTH = f"--width 0.5 {SIX_DECAYS} --eval_every 4"
LONG_DECAYS = f"--width 0.5 {VALIDATION} --ema_decay 0.998 0.999 0.9995 0.9998 {BFLOAT16}"
STARTS = "--width 0.5 --epochs 3 --ema_batch_stats raw averaged recomputed --ema_start"
GAIN = independent_runs("gain/parent-", f"{HALF_WIDTH} {POWER} --epochs 16 {BFLOAT16}", range(5))
AUGMENT = independent_runs("augment/parent-", f"{LONG_DECAYS} --augment --eval_every 4 --epochs 32", range(2))
RUNS = [
    *independent_runs("guide/seed-", "--epochs 20", [0]),
    *continued_runs("gain", "--epochs 20", GAIN),
    *continued_runs("cooldown", COOLDOWN, GAIN),
    *independent_runs("wide/seed-", f"{SIX_DECAYS} {POWER} --eval_every 10 --epochs 20", [1]),
    *independent_runs("float32/seed-", f"{HALF_WIDTH} --epochs 20 --precision float32", range(3)),
    *independent_runs("noise/seed-", f"{HALF_WIDTH} {POWER} --epochs 20 --label_noise 0.4", range(3)),
    *independent_runs("noise_cooldown/seed-", f"{HALF_WIDTH} {BFLOAT16} --label_noise 0.4 {COOLDOWN}", range(3)),
    *continued_runs("augment", "--epochs 40", AUGMENT),
    *continued_runs("augment_cooldown", "--epochs 40 --lr_cooldown 8", AUGMENT),
    *independent_runs("length/seed-", f"{LONG_DECAYS} --epochs 256 --eval_every 16", [0]),
    *independent_runs("starts/initial-seed", f"{STARTS} initial", range(2)),
    *independent_runs("starts/unbiased-seed", f"{STARTS} unbiased {POWER} 0.15", range(2)),
    *independent_runs("starts/warmup-seed", f"{STARTS} warmup", range(2)),
]
EXPERIMENTS = list(dict.fromkeys(run.name.split("/")[0] for run in RUNS))


def finished_runs(experiment, folder):
    """Returns the analysis.run_files.FinishedRun of every finished run of an experiment below `folder`."""
    runs = [run for run in RUNS if run.name.startswith(f"{experiment}/")]
    return [read_run(folder / run.name) for run in runs if is_finished(run, folder)]


def is_finished(run, folder):
    """Returns True if the directory of `run` below `folder` has its flags, any precision for "auto", and all epochs."""
    path = folder / run.name
    if not (path / "summary.json").exists():
        return False
    wanted, saved = vars(build_parser().parse_args(run.flags.split())), vars(load_flags(path))
    saved["precision"] = "auto" if wanted["precision"] == "auto" else load_precision(path)
    compared = wanted.keys() - IGNORED_FLAGS | {"seed", "eval_every"}  # the tables need both, unlike a report
    equal = all(wanted[name] == saved[name] for name in compared)
    return equal and json.loads((path / "summary.json").read_text())["epoch"] == wanted["epochs"]


def commands(run, folder):
    """Returns the shell commands that finish a run below `folder`, its parent first."""
    path, lines = folder / run.name, []
    if run.parent and not path.exists():
        parent, copy = folder / run.parent.name, f"{path}.new"
        copy_parent = f"rm -rf {copy} && mkdir -p {copy} && cp -r {parent}/. {copy} && mv {copy} {path}"
        lines = [*commands(run.parent, folder), copy_parent]
    if not is_finished(run, folder):
        resume = "--resume " if run.parent or (path / "config.json").exists() else ""
        lines.append(f"python train.py {resume}--run_dir {path} {run.flags}")
    return lines


def archive(run, folder, results):
    """Copies the small files of a finished run to `results`, without the names of local directories."""
    (results / run.name).mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "train.log", "metrics.jsonl", "table.json", "posthoc.json", "summary.json"):
        if (folder / run.name / file).exists():
            text = (folder / run.name / file).read_text().replace(f"{folder.parent}/", "")
            text = re.sub(r'(?<="data_dir": )"[^"]*"', "null", text)
            (results / run.name / file).write_text(re.sub(r"(?<=CIFAR-10 from )/.*/(?=cifar10/)", "", text))


def make_reports(experiments, results, check=False):
    """Makes the reports over any of these experiments; with `check` only compares their tables."""
    for names in REPORTS:
        folders = [f"{results.name}/{name}" for name in names if (results / name).exists()]
        if folders and {*names} & {*experiments}:
            saved = results / names[0] / "report"
            with tempfile.TemporaryDirectory() as temporary:
                output = Path(temporary, "report") if check else saved
                command = [sys.executable, ROOT / "report.py", *folders, "--output", output]
                if subprocess.run(command, cwd=results.parent, stdout=subprocess.DEVNULL).returncode:
                    sys.exit(1)  # report.py printed the reason
                if (saved / "report.json").read_text() != (output / "report.json").read_text():
                    raise UserError(f"{saved} is out of date: run experiments.py --collect {names[0]}")


def main(argv=None, results=ROOT / "results", runs=Path("runs")):
    parser = argparse.ArgumentParser(prog="experiments.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--collect", action="store_true", help="archive finished runs and make their reports")
    parser.add_argument("--check", action="store_true", help="compare reports with the archived runs (default: all)")
    args = parser.parse_args(argv)
    if not (args.names or args.check) or not {*args.names} <= {*EXPERIMENTS}:
        raise UserError(f"{' '.join(args.names) or 'no name'}: choose from the experiments {', '.join(EXPERIMENTS)}", 2)
    missing = [run for run in RUNS if run.name.split("/")[0] in args.names and not is_finished(run, results)]
    if args.check:
        make_reports(args.names or EXPERIMENTS, results, check=True)
    elif args.collect:
        for run in missing:
            if is_finished(run, runs):
                archive(run, runs.resolve(), results)
        make_reports(args.names, results)
    else:
        print(*dict.fromkeys(line for run in missing for line in commands(run, runs)), sep="\n")


if __name__ == "__main__":
    with one_line_errors():
        main()
