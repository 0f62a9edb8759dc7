"""The tables of README.md and results/README.md, made from the logs in results/.

    python results/readme_tables.py --write
    python results/readme_tables.py --check    # status 1, and what is wrong, where they do not say what the logs say

Between <!-- results: NAME ARGUMENTS --> and <!-- end --> stands what the function NAME returns.
"""

import argparse
import difflib
import json
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis.formatting import Table, as_markdown, over_seeds, shown, with_interval  # noqa: E402
from analysis.run_files import read_run  # noqa: E402
from results.experiments import EXPERIMENTS, kept  # noqa: E402
from training.labels import Label, choose  # noqa: E402

BLOCK = re.compile(r"(<!-- results: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
COMPARED = ["raw, %", "average (decay), %", "gain, points"]


def read(results, experiment):
    """The runs kept of an experiment: analysis.run_files.FinishedRun."""
    return [read_run(results / run.name) for run in kept(experiment, results)]


def rows_at(runs, epoch=None):
    """The rows of metrics.jsonl of an epoch, by default the last."""
    return [{row["epoch"]: row for row in run.rows}[epoch or run.flags.epochs] for run in runs]


def accuracies(runs, label, epoch=None):
    """Accuracies in % of an average's fair baseline and of itself, each [S]."""
    rows = [row["classifiers"] for row in rows_at(runs, epoch)]
    return [100 * np.array([row[str(one)] for row in rows]) for one in (Label.parse(label).baseline, label)]


def averages(runs):
    """The labels of the averages with recomputed statistics, by decay."""
    return sorted(label for label in runs[0].rows[0]["classifiers"] if re.fullmatch("ema/.*/recomputed", label))


def chosen(runs, epoch=None):
    """Of these labels that which is the best on the validation images."""
    labels = averages(runs)
    validation = [row["validation"] for row in rows_at(runs, epoch)]
    return choose(labels[0], [{label: one[label] for label in labels} for one in validation]).label


def named(experiment, runs):
    """What the runs are called: by experiment, precision and seeds."""
    precision = ", ".join(sorted({run.config["precision"] for run in runs}))
    seeds = ", ".join(str(run.flags.seed) for run in runs)
    return f"{EXPERIMENTS[experiment]} ({precision}, seed{'s' if len(runs) > 1 else ''} {seeds})"


def compared(runs, label=None, epoch=None):
    """Cells: the raw weights, an average, its gain; by default the average chosen."""
    label = label or chosen(runs, epoch)
    raw, average = accuracies(runs, label, epoch)
    decay = Label.parse(label).decay
    return [shown(raw.mean()), f"{shown(average.mean())} ({decay})", over_seeds(average - raw, "+")]


def headline(results):
    """The guide as it is, with the raw network's statistics and an interval over test images; the other settings."""
    guide, label = read(results, "guide"), "ema/0.998/raw"
    row = next(row for row in json.loads((guide[0].path / "table.json").read_text()) if row["label"] == label)
    gain, flips = row["fixed"] - row["broken"], row["fixed"] + row["broken"]
    half = 1.96 * (flips - gain**2 / 10_000) ** 0.5  # Wald's, of matched pairs, in images of 10,000
    body = [[named("guide", guide), *compared(guide, label)[:2], with_interval(gain / 100, half / 100, "+")]]
    for experiment in ("gain", "cooldown", "noise", "augment", "augment_cooldown"):
        if runs := read(results, experiment):
            body.append([named(experiment, runs), *compared(runs)])
    return Table("", ["setting", *COMPARED], body)


def decays(results, experiment):
    """Every average of an experiment; each gain is over the raw weights with the same batch statistics."""
    runs, body = read(results, experiment), []
    epoch_steps = runs[0].rows[0]["step"] / runs[0].rows[0]["epoch"]
    for label in averages(runs):
        decay, cells = Label.parse(label).decay, []
        for one in (label, f"ema/{decay}/raw"):
            raw, average = accuracies(runs, one)
            cells += [shown(average.mean()), over_seeds(average - raw, "+")]
        body.append([f"{decay}, {1 / (1 - float(decay)) / epoch_steps:.2g} epochs", *cells])
    header = ["recomputed statistics, %", "gain, points", "raw network's statistics, %", "gain, points"]
    return Table("", [named(experiment, runs), *header], body)


def lengths(results, experiment):
    """What an experiment gives after every epoch that was evaluated."""
    runs = read(results, experiment)
    body = [[str(row["epoch"]), *compared(runs, epoch=row["epoch"])] for row in runs[0].rows]
    return Table("", ["epoch", *COMPARED], body)


def against(results, *experiments):
    """Experiments side by side, over the seeds that all have: each difference is to raw or average of the first."""
    found = [read(results, experiment) for experiment in experiments]
    seeds = set.intersection(*({run.flags.seed for run in runs} for runs in found))
    rows = {}
    for experiment, runs in zip(experiments, found, strict=True):
        runs = [run for run in runs if run.flags.seed in seeds]
        for name, values in zip(("raw", "average"), accuracies(runs, chosen(runs)), strict=True):
            rows[f"{named(experiment, runs)}, {name}"] = values
    body = []
    for name, values in rows.items():
        differences = ("-" if values is one else over_seeds(values - one, "+") for one in list(rows.values())[:2])
        body.append([name, shown(values.mean()), *differences])
    return Table("", ["", "accuracy, %", "over the first row", "over the second"], body)


def first_epochs(results, *policies):
    """Averages of 0.998 over the first epochs, by start and batch statistics, with the gain over raw at equal ones."""
    columns, body = [(policy, epoch) for policy in policies for epoch in (1, 2, 3)], []
    for start in ("initial", "warmup", "unbiased"):
        runs, cells = [run for run in read(results, "starts") if run.flags.ema_start == start], []
        for policy, epoch in columns:
            raw, average = accuracies(runs, f"ema/0.998/{policy}", epoch)
            cells.append(f"{shown(average.mean())} ({shown((average - raw).mean(), '+')})")
        body.append([start, *cells])
    return Table("", ["--ema_start", *(f"{policy}, epoch {epoch}" for policy, epoch in columns)], body)


TABLES = {function.__name__: function for function in (headline, decays, lengths, against, first_epochs)}


def main(argv=None, readmes=(ROOT / "README.md", ROOT / "results" / "README.md"), results=ROOT / "results"):
    """Writes or checks the READMEs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tables.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="write the tables")
    parser.add_argument("--check", action="store_true", help="compare them with the logs, as without --write")
    write = parser.parse_args(argv).write

    def made(match):
        name, *arguments = match[2].split()
        missing = [one for one in arguments if one in EXPERIMENTS and not kept(one, results)]
        if missing:
            return f"{match[1]}Not there yet: `make results NAME={missing[0]}`\n{match[4]}"
        return f"{match[1]}{as_markdown(TABLES[name](results, *arguments))}{match[4]}"

    after = {file: BLOCK.sub(made, file.read_text()) for file in readmes}
    problems = []
    for file, text in after.items():
        if write:
            file.write_text(text)
        there = file.read_text().splitlines()
        problems += difflib.unified_diff(there, text.splitlines(), file.name, "the logs", lineterm="")
    print(*problems, sep="\n", end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
