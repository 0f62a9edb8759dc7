"""The experiments behind the numbers in the READMEs, and the runs of each experiment.

python results/experiments.py gain              # prints the commands that train the missing runs
python results/experiments.py gain --collect    # archives finished runs from runs/ in results/, and makes reports
python results/experiments.py --check           # status 1 if a report differs from the archived runs
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
RESULTS = ROOT / "results"
sys.path.insert(0, str(ROOT))

from analysis.groups import IGNORED_FLAGS  # noqa: E402
from training.cli import UserError, one_line_errors  # noqa: E402
from training.flags import build_parser, load_config, load_flags, load_precision  # noqa: E402

EXPERIMENTS = {  # name to title
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
REPORTS = {"guide": "guide", "gain": "gain cooldown", "noise": "noise", "augment": "augment augment_cooldown"}


class Run(NamedTuple):
    name: str  # directory in runs/ and results/
    flags: str  # of train.py
    parent: "Run | None" = None  # the run that it continues


def independent_runs(name, flags, seeds):
    return [Run(f"{name}{seed}", f"{flags} --seed {seed}") for seed in seeds]


def continued_runs(experiment, flags, parents):
    return [Run(f"{experiment}/seed-{seed}", f"{run.flags} {flags}", run) for seed, run in enumerate(parents)]


BFLOAT16, POWER, COOLDOWN = "--precision bfloat16", "--ema_power 0.05 0.1", "--epochs 20 --lr_cooldown 4"
VALIDATION = "--validation_size 5000 --ema_start unbiased --ema_batch_stats recomputed raw"
SIX_DECAYS = f"{VALIDATION} --ema_decay 0.998 0.99 0.995 0.999 0.9995 0.9998"
HALF_WIDTH = f"--width 0.5 {SIX_DECAYS} --eval_every 4"
LONG_RUN = f"--width 0.5 {VALIDATION} --ema_decay 0.998 0.999 0.9995 0.9998 {BFLOAT16}"
FIRST_EPOCHS = "--width 0.5 --epochs 3 --ema_batch_stats raw averaged recomputed --ema_start"
GAIN_PARENTS = independent_runs("gain/parent-", f"{HALF_WIDTH} {POWER} --epochs 16", (0, 1, 2))
GAIN_PARENTS += independent_runs("gain/parent-", f"{HALF_WIDTH} {POWER} --epochs 16 {BFLOAT16}", (3, 4))
AUGMENT_PARENTS = independent_runs("augment/parent-", f"{LONG_RUN} --augment --eval_every 4 --epochs 32", (0, 1))
RUNS = [
    *independent_runs("guide/seed-", "--epochs 20", (0,)),
    *continued_runs("gain", "--epochs 20", GAIN_PARENTS),
    *continued_runs("cooldown", COOLDOWN, GAIN_PARENTS),
    *independent_runs("wide/seed-", f"{SIX_DECAYS} {POWER} --eval_every 10 --epochs 20", (1,)),
    *independent_runs("float32/seed-", f"{HALF_WIDTH} --epochs 20 --precision float32", (0, 1, 2)),
    *independent_runs("noise/seed-", f"{HALF_WIDTH} {POWER} --label_noise 0.4 --epochs 20", (0, 1, 2)),
    *independent_runs("noise_cooldown/seed-", f"{HALF_WIDTH} {BFLOAT16} --label_noise 0.4 {COOLDOWN}", (0, 1, 2)),
    *continued_runs("augment", "--epochs 40", AUGMENT_PARENTS),
    *continued_runs("augment_cooldown", "--epochs 40 --lr_cooldown 8", AUGMENT_PARENTS),
    *independent_runs("length/seed-", f"{LONG_RUN} --epochs 256 --eval_every 16", (0,)),
    *independent_runs("starts/initial-seed", f"{FIRST_EPOCHS} initial", (0, 1)),
    *independent_runs("starts/unbiased-seed", f"{FIRST_EPOCHS} unbiased {POWER} 0.15", (0, 1)),
    *independent_runs("starts/warmup-seed", f"{FIRST_EPOCHS} warmup", (0, 1)),
]


def runs_of(experiment):
    return [run for run in RUNS if run.name.startswith(f"{experiment}/")]


def is_finished(run, folder):
    """Returns whether <folder>/<run.name> holds the last epoch of the run; UserError if it is a different run."""
    path, wanted = folder / run.name, build_parser().parse_args(run.flags.split())
    summary = path / "summary.json"
    if not summary.exists() or json.loads(summary.read_text())["epoch"] != wanted.epochs:
        return False
    saved = load_flags(path)
    saved.precision = "auto" if wanted.precision == "auto" else load_precision(path)
    # Reports ignore these two, but here every run has its seed, and the tables need its evaluated epochs.
    for name in sorted(vars(wanted).keys() - set(IGNORED_FLAGS) | {"seed", "eval_every"}):
        if getattr(saved, name) != getattr(wanted, name):
            raise UserError(f"{path} holds a run with a different --{name}: move it away (mv {path} {path}-other)")
    return True


def commands(run, folder):
    """Returns the shell commands that finish a run in `folder`, and its parent before."""
    path, lines = folder / run.name, []
    target = shlex.quote(str(path))
    if run.parent and not path.exists():
        parent = shlex.quote(str(folder / run.parent.name))
        copy = f"mkdir -p {target}.new && cp -r {parent}/. {target}.new && mv {target}.new {target}"
        lines = [*commands(run.parent, folder), copy]
    if not is_finished(run, folder):
        resume = "--resume " if run.parent or (path / "config.json").exists() else ""
        lines.append(f"python train.py {resume}--run_dir {target} {run.flags}")
    return lines


def archive(run, folder, results):
    """Copies the small files of a finished run; removes the paths of this machine from them."""
    path, target = folder / run.name, results / run.name
    target.mkdir(parents=True, exist_ok=True)
    config = load_config(path)
    config["flags"] |= {"run_dir": f"runs/{run.name}", "data_dir": None}
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    log = (path / "train.log").read_text().replace(str(folder), "runs").replace(f"{folder.parent}/", "")
    (target / "train.log").write_text(re.sub(r"(?<=CIFAR-10 from )/.*/(?=cifar10/)", "", log))
    for name in ("metrics.jsonl", "table.json", "posthoc.json", "summary.json"):  # the last one marks a finished run
        if (path / name).exists():
            shutil.copyfile(path / name, target / name)


def make_reports(names, results, output):
    """Makes the reports that include an experiment in `names`, each in <output>/<report>/report."""
    for report, experiments in REPORTS.items():
        folders = [f"{results.name}/{name}" for name in experiments.split() if (results / name).exists()]
        if folders and set(experiments.split()) & set(names):
            command = [sys.executable, ROOT / "report.py", *folders, "--output", output / report / "report"]
            if subprocess.run(command, cwd=results.parent, stdout=subprocess.DEVNULL).returncode:
                raise UserError(f"the report of {report} failed: fix the error above")


def check_reports(names, results):
    """Makes the reports again; UserError if a report.json differs from the archived one."""
    with tempfile.TemporaryDirectory() as output:
        make_reports(names, results, Path(output))
        for file in Path(output).glob("*/report/report.json"):
            archived = results / file.relative_to(output)
            if not archived.exists() or archived.read_text() != file.read_text():
                raise UserError(f"{archived} differs from the archived runs: make it again with --collect")


def main(argv=None, results=RESULTS, runs=Path("runs")):
    parser = argparse.ArgumentParser(prog="experiments.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"experiments: {', '.join(EXPERIMENTS)}")
    parser.add_argument("--collect", action="store_true", help="archive finished runs and make their reports")
    parser.add_argument("--check", action="store_true", help="compare reports with the archived runs (default: all)")
    args = parser.parse_args(argv)
    if set(args.names) - set(EXPERIMENTS) or not (args.names or args.check):
        parser.error(f"pass NAME, one or more of {', '.join(EXPERIMENTS)}")
    if args.check:
        return check_reports(args.names or EXPERIMENTS, results)
    missing = [run for name in args.names for run in runs_of(name) if not is_finished(run, results)]
    if args.collect:
        for run in [run for run in missing if is_finished(run, runs)]:
            archive(run, runs.resolve(), results)
        return make_reports(args.names, results, results)
    lines = [f"# {name}: {EXPERIMENTS[name]}" for name in args.names]
    for run in missing:
        lines += commands(run, runs)
    print(*dict.fromkeys(lines), sep="\n")  # each parent once


if __name__ == "__main__":
    with one_line_errors():
        main()
