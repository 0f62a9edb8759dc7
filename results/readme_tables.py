"""Makes the tables in README.md and results/README.md from the logs in results/.

--write replaces the text between <!-- results: NAME ARGUMENTS --> and <!-- end --> with the table of the function NAME.
--check exits with status 1 if a README has other tables.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis.formatting import Table, as_markdown, format_number, over_seeds, with_interval  # noqa: E402
from analysis.run_files import read_run  # noqa: E402
from results.experiments import EXPERIMENTS, RESULTS, is_finished, runs_of  # noqa: E402
from training.cli import UserError, one_line_errors  # noqa: E402
from training.labels import BATCH_STATS, EMA_STARTS, Label, choose  # noqa: E402

READMES = [ROOT / "README.md", RESULTS / "README.md"]
BLOCK = re.compile(r"(<!-- results: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
COLUMNS = ["raw, %", "average (decay), %", "gain, points"]


def read(results, experiment):
    """Returns the FinishedRuns of an experiment."""
    return [read_run(results / run.name) for run in runs_of(experiment) if is_finished(run, results)]


def row_at(run, epoch=None):
    """Returns the row of metrics.jsonl for an epoch, by default the last."""
    return next(row for row in run.rows if row["epoch"] == (epoch or run.flags.epochs))


def accuracy(runs, label, epoch=None):
    """Returns the test accuracy in % of each run: [S]."""
    return 100 * np.array([row_at(run, epoch)["classifiers"][label] for run in runs])


def gain(runs, label, epoch=None):
    """Returns the accuracy of an average minus that of its baseline: [S]."""
    return accuracy(runs, label, epoch) - accuracy(runs, str(Label.parse(label).baseline), epoch)


def averages(runs):
    """Returns the labels of the averages with recomputed statistics, sorted by decay."""
    return sorted(label for label in runs[0].rows[0]["classifiers"] if re.fullmatch("ema/.*/recomputed", label))


def best_average(runs, epoch=None):
    """Returns the label out of `averages` that is best on the validation images."""
    labels, validation = averages(runs), []
    for run in runs:
        accuracies = row_at(run, epoch)["validation"]
        validation.append({label: accuracies[label] for label in labels})
    return choose(labels[0], validation).label


def cells(runs, label, epoch=None):
    """Returns the cells under COLUMNS for an average."""
    raw = accuracy(runs, str(Label.parse(label).baseline), epoch).mean()
    average = f"{format_number(accuracy(runs, label, epoch).mean())} ({Label.parse(label).decay})"
    return [format_number(raw), average, over_seeds(gain(runs, label, epoch), "+")]


def describe(experiment, runs):
    """Returns the title of an experiment with the precision and seeds of its runs."""
    precision = ", ".join(sorted({run.config["precision"] for run in runs}))
    seeds = ", ".join(str(run.flags.seed) for run in runs)
    noun = "seed" if len(runs) == 1 else "seeds"
    return f"{EXPERIMENTS[experiment]} ({precision}, {noun} {seeds})"


def headline(results):
    """Compares all settings. The guide's row has the raw network's statistics and an interval over test images."""
    guide, label = read(results, "guide"), "ema/0.998/raw"
    table = json.loads((guide[0].path / "table.json").read_text())
    row = next(row for row in table if row["label"] == label)
    images, changed = row["fixed"] - row["broken"], row["fixed"] + row["broken"]
    half = 1.96 * (changed - images**2 / 10_000) ** 0.5  # Wald interval of matched pairs, in images of 10,000
    body = [[describe("guide", guide), *cells(guide, label)[:2], with_interval(images / 100, half / 100, "+")]]
    for experiment in ("gain", "cooldown", "noise", "augment", "augment_cooldown"):
        if runs := read(results, experiment):
            body.append([describe(experiment, runs), *cells(runs, best_average(runs))])
    return Table("", ["setting", *COLUMNS], body)


def decays(results, experiment):
    """Lists every decay with both batch statistics. A gain is over raw weights with the same statistics."""
    runs, body = read(results, experiment), []
    epoch_steps = runs[0].rows[0]["step"] / runs[0].rows[0]["epoch"]
    for decay in [Label.parse(label).decay for label in averages(runs)]:
        row = [f"{decay}, {1 / (1 - float(decay)) / epoch_steps:.2g} epochs"]
        for label in (f"ema/{decay}/recomputed", f"ema/{decay}/raw"):
            row += [format_number(accuracy(runs, label).mean()), over_seeds(gain(runs, label), "+")]
        body.append(row)
    header = ["recomputed statistics, %", "gain, points", "raw network's statistics, %", "gain, points"]
    return Table("", [describe(experiment, runs), *header], body)


def lengths(results, experiment):
    """Lists the average that is best on the validation images after every evaluated epoch."""
    runs, body = read(results, experiment), []
    for epoch in [row["epoch"] for row in runs[0].rows]:
        body.append([str(epoch), *cells(runs, best_average(runs, epoch), epoch)])
    return Table("", ["epoch", *COLUMNS], body)


def against(results, *experiments):
    """Compares experiments over their common seeds with the raw weights and the average of the first experiment."""
    all_runs = [read(results, experiment) for experiment in experiments]
    seeds = set.intersection(*({run.flags.seed for run in runs} for runs in all_runs))
    rows = {}
    for experiment, runs in zip(experiments, all_runs, strict=True):
        common = [run for run in runs if run.flags.seed in seeds]
        title, label = describe(experiment, common), best_average(common)
        rows[f"{title}, raw"] = accuracy(common, str(Label.parse(label).baseline))
        rows[f"{title}, average"] = accuracy(common, label)
    body = []
    for name, values in rows.items():
        references = list(rows.values())[:2]
        differences = ["-" if values is reference else over_seeds(values - reference, "+") for reference in references]
        body.append([name, format_number(values.mean()), *differences])
    return Table("", ["", "accuracy, %", "over the first row", "over the second"], body)


def first_epochs(results, *policies):
    """Lists the accuracy and gain of decay 0.998 in the first epochs, by start and batch statistics."""
    columns = [(policy, epoch) for policy in policies for epoch in (1, 2, 3)]
    body = []
    for start in EMA_STARTS:
        runs, row = [run for run in read(results, "starts") if run.flags.ema_start == start], [start]
        for policy, epoch in columns:
            label = f"ema/0.998/{policy}"
            difference = format_number(gain(runs, label, epoch).mean(), "+")
            row.append(f"{format_number(accuracy(runs, label, epoch).mean())} ({difference})")
        body.append(row)
    return Table("", ["--ema_start", *(f"{policy}, epoch {epoch}" for policy, epoch in columns)], body)


TABLES = {function.__name__: function for function in (headline, decays, lengths, against, first_epochs)}


def make_table(results, text):
    """Returns the table for the text of a block, or a line that says which experiment has no finished runs."""
    name, *arguments = text.split()
    experiments = set(arguments) & set(EXPERIMENTS)
    if name not in TABLES or set(arguments) - experiments - set(BATCH_STATS):
        raise UserError(f"<!-- results: {text} --> is not a table, use one of {', '.join(TABLES)}")
    for experiment in experiments:
        if not read(results, experiment):
            return f"Not there yet: `make results NAME={experiment}`\n"
    return as_markdown(TABLES[name](results, *arguments))


def main(argv=None, readmes=READMES, results=RESULTS):
    parser = argparse.ArgumentParser(prog="readme_tables.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="write the tables")
    parser.add_argument("--check", action="store_true", help="compare them with the logs, as without --write")
    write = parser.parse_args(argv).write
    for file in readmes:
        before = file.read_text()
        after = BLOCK.sub(lambda match: match[1] + make_table(results, match[2]) + match[3], before)
        if write:
            file.write_text(after)
        elif after != before:
            raise UserError(f"{file} differs from the logs: python results/readme_tables.py --write")


if __name__ == "__main__":
    with one_line_errors():
        main()
