"""The tables of README.md and results/README.md, made of the logs in results/, and a check of the numbers around them.

    python results/tables.py --write
    python results/tables.py --check    # status 1, and what is wrong, where they do not say what the logs say

Between <!-- results: NAME ARGUMENTS --> and <!-- end --> stands what the function NAME returns. A number with a decimal
point in the prose has to stand in some table too, or among CONSTANTS.
"""

import argparse
import difflib
import functools
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis.run_files import read_run  # noqa: E402
from analysis.statistics import mean_interval  # noqa: E402
from analysis.tables import shown  # noqa: E402
from results.experiments import EXPERIMENTS, kept  # noqa: E402

CONSTANTS = {  # where they come from, and the numbers
    "requirements.txt": "3.10 3.13",
    "config.json of the experiments: width and dropout, share of wrong labels": "0.5 0.4",
    "Morales-Brotons et al. 2024, arXiv 2411.18704": "78.1 86.7",
    "the flips of results/guide/seed-0/table.json, Wald's interval of matched pairs": "1.41 2.37",
    "the losses of results/{gain,cooldown,noise}/seed-*/table.json": "0.3895 0.3362 0.3406 0.3391 0.9869 0.9150",
    "results/gain/seed-*/posthoc.json": "88.60 88.58 88.65",
    "git show 9f4d9b5:results/churn/report.json, and noise/report/report.json": "11.30 7.02 8.13 7.72 19.65 14.86",
    "git show 9f4d9b5:results/recompute_dropout, and results/starts": "64.86 72.11 77.15 67.32 73.59 78.16",
    "git show 9f4d9b5:results/precision, and results/starts": "3.86 2.90 1.25 0.25",
}
BLOCK = re.compile(r"(<!-- results: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
GENERATED = re.compile(r"<!-- \w+: .*?<!-- end -->", re.DOTALL)  # by other programs too
CODE = re.compile(r"```.*?```|^ {4}.*?$|`[^`]*`|\]\([^)]*\)|<http[^>]*>", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])\d+\.\d+(?!\w|\.\d)")
RAW = "raw/recomputed"
COMPARED = ["raw, %", "average (decay), %", "gain, points"]


def read(results, experiment):
    """The runs kept of an experiment: analysis.run_files.FinishedRun."""
    return [read_run(results / run.name) for run in kept(experiment, results)]


def accuracy(runs, label, epoch=None, key="classifiers"):
    """Accuracy in % of a classifier after an epoch, by default the last, [S]."""
    rows = [{row["epoch"]: row for row in run.rows}[epoch or run.flags.epochs] for run in runs]
    return np.array([100 * row[key][label] for row in rows])


def averages(runs):
    """The labels of the averages with recomputed statistics, by decay."""
    return sorted(label for label in runs[0].rows[0]["classifiers"] if re.fullmatch("ema/.*/recomputed", label))


def chosen(runs, epoch=None):
    """Of these labels the best on the validation images, mean over seeds."""
    return max(averages(runs), key=lambda label: accuracy(runs, label, epoch, "validation").mean())


def markdown(header, body):
    """A Markdown table whose first column holds words."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def estimate(values, sign="", digits=2):
    """A mean over seeds with its 95% interval, "1.73 [1.15, 2.30]"; below three seeds the values, "1.63, 1.56"."""
    text = functools.partial(shown, sign=sign, digits=digits)
    if len(values) < 3:
        return ", ".join(map(text, values))
    mean, half = mean_interval(values)
    return f"{text(mean)} [{text(mean - half)}, {text(mean + half)}]"


def named(experiment, runs):
    """What the runs are called: by experiment, precision and seeds."""
    precision = ", ".join(sorted({run.config["precision"] for run in runs}))
    seeds = ", ".join(str(run.flags.seed) for run in runs)
    return f"{EXPERIMENTS[experiment]} ({precision}, seed{'s' if len(runs) > 1 else ''} {seeds})"


def compared(runs, labels=None, epoch=None):
    """Cells: raw weights, an average, its gain; without labels that chosen, with recomputed statistics for both."""
    raw, average = labels or (RAW, chosen(runs, epoch))
    values = [accuracy(runs, label, epoch) for label in (raw, average)]
    decay = average.split("/")[1]
    return [shown(values[0].mean()), f"{shown(values[1].mean())} ({decay})", estimate(values[1] - values[0], "+")]


def headline(results):
    """The guide as it is, with the raw network's statistics, and the other settings."""
    guide = read(results, "guide")
    body = [[named("guide", guide), *compared(guide, ("raw", "ema/0.998/raw"))]]
    for experiment in ("gain", "cooldown", "noise", "augment", "noise_cooldown"):
        if runs := read(results, experiment):
            body.append([named(experiment, runs), *compared(runs)])
    return markdown(["setting", *COMPARED], body)


def decays(results, experiment):
    """Every average of an experiment; each gain is over the raw weights with the same batch statistics."""
    runs, body = read(results, experiment), []
    epoch_steps = runs[0].rows[0]["step"] / runs[0].rows[0]["epoch"]
    for label in averages(runs):
        decay, cells = label.split("/")[1], []
        for own, raw in ((label, RAW), (f"ema/{decay}/raw", "raw")):
            values = accuracy(runs, own)
            cells += [shown(values.mean()), estimate(values - accuracy(runs, raw), "+")]
        body.append([f"{decay}, {1 / (1 - float(decay)) / epoch_steps:.2g} epochs", *cells])
    header = ["recomputed statistics, %", "gain, points", "raw network's statistics, %", "gain, points"]
    return markdown([named(experiment, runs), *header], body)


def lengths(results, experiment):
    """What an experiment gives after every epoch that was evaluated."""
    runs = read(results, experiment)
    body = [[str(row["epoch"]), *compared(runs, epoch=row["epoch"])] for row in runs[0].rows]
    return markdown(["epoch", *COMPARED], body)


def against(results, *experiments):
    """Experiments side by side, over the seeds that all have: each difference is to raw or average of the first."""
    found = [read(results, experiment) for experiment in experiments]
    seeds = set.intersection(*({run.flags.seed for run in runs} for runs in found))
    rows = {}
    for experiment, runs in zip(experiments, found, strict=True):
        runs = [run for run in runs if run.flags.seed in seeds]
        for name, label in (("raw", RAW), ("average", chosen(runs))):
            rows[f"{named(experiment, runs)}, {name}"] = accuracy(runs, label)
    body = []
    for name, values in rows.items():
        differences = ("-" if values is one else estimate(values - one, "+") for one in list(rows.values())[:2])
        body.append([name, shown(values.mean()), *differences])
    return markdown(["", "accuracy, %", "over the first row", "over the second"], body)


def first_epochs(results, *policies):
    """Averages of 0.998 over the first epochs, by start and batch statistics, with the gain over raw at equal ones."""
    columns, body = [(policy, epoch) for policy in policies for epoch in (1, 2, 3)], []
    for start in ("initial", "warmup", "unbiased"):
        runs, cells = [run for run in read(results, "starts") if run.flags.ema_start == start], []
        for policy, epoch in columns:
            average, raw = (
                accuracy(runs, label, epoch).mean()
                for label in (f"ema/0.998/{policy}", RAW if policy == "recomputed" else "raw")
            )
            cells.append(f"{shown(average)} ({shown(average - raw, '+')})")
        body.append([start, *cells])
    return markdown(["--ema_start", *(f"{policy}, epoch {epoch}" for policy, epoch in columns)], body)


TABLES = {function.__name__: function for function in (headline, decays, lengths, against, first_epochs)}


def main(argv=None, readmes=(ROOT / "README.md", ROOT / "results" / "README.md"), results=ROOT / "results"):
    """Writes or checks the READMEs; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tables.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="write the tables")
    parser.add_argument("--check", action="store_true", help="compare them with the logs, as without --write")
    write = parser.parse_args(argv).write

    def made(match):
        name, *arguments = match[2].split()
        if name not in TABLES:
            return match[0]
        missing = [one for one in arguments if one in EXPERIMENTS and not kept(one, results)]
        table = f"Not there yet: `make results NAME={missing[0]}`\n" if missing else TABLES[name](results, *arguments)
        return f"{match[1]}{table}{match[4]}"

    before = {file: file.read_text() for file in readmes}
    after = {file: BLOCK.sub(made, text) for file, text in before.items()}
    known = {number for text in after.values() for block in GENERATED.findall(text) for number in NUMBER.findall(block)}
    known.update(" ".join(CONSTANTS.values()).split())
    problems = []
    for file, text in after.items():
        if write:
            file.write_text(text)
        else:
            lines = before[file].splitlines(), text.splitlines()
            problems += difflib.unified_diff(*lines, file.name, "the logs", lineterm="")
        for line in CODE.sub("", GENERATED.sub("", text)).splitlines():
            unknown = [number for number in NUMBER.findall(line) if number not in known]
            problems += [f"{file.name}: no table has {number}: {line.strip()}" for number in unknown]
    print(*problems, sep="\n", end="\n" if problems else "")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
