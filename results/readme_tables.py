"""Makes the tables in README.md and results/README.md from the logs in results/: --write or --check.

<!-- results: NAME ARGUMENTS --> precedes the table of the function NAME below.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from analysis.formatting import Table, as_markdown, format_number, over_seeds, update_blocks, with_interval  # noqa: E402
from results.experiments import finished_runs  # noqa: E402
from training.cli import one_line_errors  # noqa: E402
from training.labels import BATCH_STATS, EMA_STARTS, Label, choose  # noqa: E402

TITLES = {
    "guide": "the guide as it is",
    "gain": "constant rate",
    "cooldown": "rate annealed to 0",
    "noise": "40% wrong labels",
    "noise_cooldown": "40% wrong labels, annealed",
    "augment": "augmentation, 40 epochs",
    "augment_cooldown": "augmentation, 40 epochs, annealed",
    "float32": "constant rate",
    "wide": "width 1",
}
COLUMNS = ["raw, %", "average (decay), %", "gain, points"]


def rows_at(runs, epoch=None):
    """Returns each run's row of metrics.jsonl at an epoch, by default the last."""
    return [row for run in runs for row in run.rows if row["epoch"] == (epoch or run.flags.epochs)]


def accuracies(runs, decay, statistics, epoch=None):
    """Returns test accuracies in % [S] of the baseline of an average, and of the average."""
    label = Label("ema", decay, statistics)
    rows = [row["classifiers"] for row in rows_at(runs, epoch)]
    return [100 * np.array([row[name] for row in rows]) for name in (str(label.baseline), str(label))]


def choose_decay(runs, epoch=None):
    """Returns the decay of the average with recomputed statistics that is best on the validation images."""
    labels = [str(Label("ema", decay, "recomputed")) for decay in sorted(runs[0].flags.ema_decay)]
    validation = [{label: row["validation"][label] for label in labels} for row in rows_at(runs, epoch)]
    return Label.parse(choose(labels[0], validation).label).decay


def title(experiment, runs):
    """Returns the experiment's title with precision and seeds."""
    precision = ", ".join(sorted({run.config["precision"] for run in runs}))
    seeds = ("seeds " if len(runs) > 1 else "seed ") + ", ".join(str(run.flags.seed) for run in runs)
    return f"{TITLES[experiment]} ({precision}, {seeds})"


def gain_cells(runs, epoch=None, decay=None, statistics="recomputed"):
    """Returns the cells of COLUMNS, by default for the average that the validation images choose."""
    decay = decay or choose_decay(runs, epoch)
    raw, average = accuracies(runs, decay, statistics, epoch)
    return [format_number(raw.mean()), f"{format_number(average.mean())} ({decay})", over_seeds(average - raw, "+")]


def headline(results):
    """Makes the table of settings; the guide has the raw network's statistics and an interval over test images."""
    guide = finished_runs("guide", results)
    table = {row["label"]: row for row in json.loads((guide[0].path / "table.json").read_text())}
    fixed, broken = (table["ema/0.998/raw"][name] for name in ("fixed", "broken"))
    gain = fixed - broken
    half = 1.96 * (fixed + broken - gain**2 / 10_000) ** 0.5  # Wald's interval of matched pairs, in images of 10,000
    cells = gain_cells(guide, decay="0.998", statistics="raw")[:2]
    body = [[title("guide", guide), *cells, with_interval(gain / 100, half / 100, "+")]]
    for experiment in ("gain", "cooldown", "noise", "augment", "augment_cooldown"):
        if runs := finished_runs(experiment, results):
            body.append([title(experiment, runs), *gain_cells(runs)])
    return Table("", ["setting", *COLUMNS], body)


def decays(results, experiment):
    """Makes the table of averages; each gain is over the raw weights with the same batch statistics."""
    runs, body = finished_runs(experiment, results), []
    epoch_steps = runs[0].rows[0]["step"] / runs[0].rows[0]["epoch"]
    for decay in sorted(runs[0].flags.ema_decay):
        cells = [f"{decay}, {1 / (1 - float(decay)) / epoch_steps:.2g} epochs"]
        for statistics in ("recomputed", "raw"):
            raw, average = accuracies(runs, decay, statistics)
            cells += [format_number(average.mean()), over_seeds(average - raw, "+")]
        body.append(cells)
    header = ["recomputed statistics, %", "gain, points", "raw network's statistics, %", "gain, points"]
    return Table("", [title(experiment, runs), *header], body)


def lengths(results, experiment):
    """Makes the table of evaluated epochs."""
    runs = finished_runs(experiment, results)
    body = [[str(row["epoch"]), *gain_cells(runs, row["epoch"])] for row in runs[0].rows]
    return Table("", ["epoch", *COLUMNS], body)


def against(results, *experiments):
    """Makes the table of raw weights and averages over common seeds, with differences to the first experiment."""
    groups = [finished_runs(experiment, results) for experiment in experiments]
    seeds = set.intersection(*({run.flags.seed for run in runs} for runs in groups))
    values = {}
    for experiment, group in zip(experiments, groups, strict=True):
        runs = [run for run in group if run.flags.seed in seeds]
        for name, array in zip(("raw", "average"), accuracies(runs, choose_decay(runs), "recomputed"), strict=True):
            values[f"{title(experiment, runs)}, {name}"] = array
    body, references = [], list(values.values())[:2]
    for name, array in values.items():
        differences = ["-" if array is reference else over_seeds(array - reference, "+") for reference in references]
        body.append([name, format_number(array.mean()), *differences])
    return Table("", ["", "accuracy, %", "over the first row", "over the second"], body)


def first_epochs(results, *policies):
    """Makes the table of decay 0.998 by start, batch statistics and epoch, with the gain at equal statistics."""
    columns, body = [(statistics, epoch) for statistics in policies for epoch in (1, 2, 3)], []
    for start in EMA_STARTS:
        runs, cells = [run for run in finished_runs("starts", results) if run.flags.ema_start == start], [start]
        for statistics, epoch in columns:
            raw, average = accuracies(runs, "0.998", statistics, epoch)
            cells.append(f"{format_number(average.mean())} ({format_number((average - raw).mean(), '+')})")
        body.append(cells)
    return Table("", ["--ema_start", *(f"{statistics}, epoch {epoch}" for statistics, epoch in columns)], body)


def make_table(function, results, *arguments):
    """Returns the Markdown of a table, or the command that makes its missing runs."""
    if missing := [name for name in arguments if name not in BATCH_STATS and not finished_runs(name, results)]:
        return f"Not measured yet: `make results NAME={missing[0]}`\n"
    return as_markdown(function(results, *arguments))


def main(argv=None, files=(ROOT / "README.md", ROOT / "results" / "README.md"), results=ROOT / "results"):
    functions = (headline, decays, lengths, against, first_epochs)
    tables = {function.__name__: partial(make_table, function, results) for function in functions}
    update_blocks(files, "results", tables, argv)


if __name__ == "__main__":
    with one_line_errors():
        main()
