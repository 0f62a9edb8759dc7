"""Tables as text and Markdown, and the tables of the report. Each gain is over the classifier's baseline."""

import argparse
import difflib
import re
import sys
import textwrap
from typing import NamedTuple

import numpy as np

from analysis.statistics import INTERVAL_FROM, calibration_error, churn, cross_entropy, mean_interval, pairs_interval
from training.cli import UserError
from training.labels import Label, baseline_of


class Table(NamedTuple):
    caption: str
    header: list  # of str; the first column names the row
    rows: list  # of lists of str

    @property
    def in_words(self):
        """Returns for each column whether it contains words; these are left-aligned."""
        return [any(map(str.isalpha, "".join(column))) for column in zip(*self.rows, strict=True)]


def as_text(table):
    """Returns the caption, if any, and columns of fixed width."""
    columns = []
    for in_words, *cells in zip(table.in_words, table.header, *table.rows, strict=True):
        align = str.ljust if in_words else str.rjust
        columns.append([align(cell, max(map(len, cells))) for cell in cells])
    lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([*textwrap.wrap(table.caption, 120), *lines])


def as_markdown(table):
    """Returns the table in Markdown, without its caption."""
    rule = ["---" if in_words else "---:" for in_words in table.in_words]
    return "".join(f"| {' | '.join(line)} |\n" for line in [table.header, rule, *table.rows])


def print_wrapped(*paragraphs):
    """Prints paragraphs in lines of 80 columns; longer words, such as paths, stay whole."""
    for text in paragraphs:
        print(textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def format_number(value, sign="", digits=2):
    """Formats a number; rounds to 9 digits first so that summation order cannot flip the last digit. Never "-0.00"."""
    return f"{round(round(value, 9), digits) + 0.0:{sign}.{digits}f}"


def with_interval(mean, half, sign="", digits=2):
    """Returns "1.59 [1.15, 2.04]"; "1.59" if half the interval's width is None."""
    text = format_number(mean, sign, digits)
    if half is None:
        return text
    return f"{text} [{format_number(mean - half, sign, digits)}, {format_number(mean + half, sign, digits)}]"


def over_seeds(values, sign="", digits=2):
    """Returns the mean of values [S] with its 95% interval, or of two seeds with both: "1.50 (1.00, 2.00)"."""
    text = with_interval(*mean_interval(values), sign, digits)
    if 1 < len(values) < INTERVAL_FROM:
        text += f" ({', '.join(format_number(value, sign, digits) for value in values)})"
    return text


def describe_seeds(seeds):
    """Returns the number of seeds in words, and how `over_seeds` shows them."""
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}), so no interval"
    spread = "95% t-interval" if len(seeds) >= INTERVAL_FROM else "each"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))}), mean and {spread}"


def display_name(label):
    """Returns the name of a classifier for people, from its label text."""
    return Label.parse(label).display_name


def accuracy_table(group):
    """Returns the table of every classifier at the last epoch, with its gain over its baseline, paired by seed."""
    rows = []
    for label, accuracy in group.final.items():
        baseline = baseline_of(label, group.final)
        star = " *" if label == group.ema_label else ""
        gain = over_seeds(100 * (accuracy - group.final[baseline]), "+") if baseline else "-"
        name = display_name(baseline) if baseline else "-"
        rows.append([f"{display_name(label)}{star}", over_seeds(100 * accuracy), gain, name])
    caption = f"Test accuracy after epoch {group.epochs[-1]}, {describe_seeds(group.seeds)}; * {group.reason}"
    return Table(caption, ["", "accuracy, %", "gain, points", "over"], rows)


def predictions_table(group, predictions):
    """Returns the table of test loss, calibration and churn between seeds, from run_files.Predictions."""
    rows = []
    measures = [("test loss, nats", cross_entropy, 1, 4), ("calibration error, %", calibration_error, 100, 2)]
    for name, function, scale, digits in measures:
        baseline = scale * np.array([function(run.baseline, run.labels) for run in predictions])
        ema = scale * np.array([function(run.ema, run.labels) for run in predictions])
        means = [format_number(values.mean(), digits=digits) for values in (baseline, ema)]
        rows.append([name, *means, over_seeds(ema - baseline, "+", digits)])
    if len(predictions) > 1:
        classes = np.array([[run.baseline.argmax(1), run.ema.argmax(1)] for run in predictions])  # [S, 2, N]
        means = [format_number(100 * churn(classes[:, index])) for index in (0, 1)]
        # The difference of two means over pairs is a mean over pairs too.
        interval = pairs_interval(lambda seeds: 100 * (churn(seeds[:, 1]) - churn(seeds[:, 0])), classes)
        rows.append(["churn between seeds, %", *means, with_interval(*interval, "+")])
    seeds = describe_seeds([item.run.flags.seed for item in predictions])
    caption = f"Loss, calibration and churn (its interval by jackknife) after epoch {group.epochs[-1]}, {seeds}"
    return Table(caption, ["", display_name(group.baseline), display_name(group.ema_label), "difference"], rows)


def run_table(group):
    """Returns the table of runs: their accuracies, device, precision and versions."""
    rows = []
    for index, run in enumerate(group.runs):
        accuracies = [format_number(100 * group.final[label][index]) for label in group.labels]
        gain = format_number(100 * group.gain[index, -1], "+")
        origin = [str(run.config.get(name) or "unknown") for name in ("precision", "device", "git_commit")]
        versions = ", ".join(f"{name} {version}" for name, version in run.config.get("versions", {}).items())
        epochs = str(run.rows[-1]["epoch"])
        rows.append([str(run.path), str(run.flags.seed), epochs, *accuracies, gain, *origin, versions])
    caption = f"The runs, their accuracy after epoch {group.epochs[-1]}, and where they were made"
    labels = [f"{display_name(label)}, %" for label in group.labels]
    header = ["run", "seed", "epochs", *labels, "gain, points", "precision", "device", "commit", "versions"]
    return Table(caption, header, rows)


def update_blocks(files, marker, tables, argv=None):
    """Writes (--write) or compares (--check) the tables between <!-- MARKER: NAME ARGUMENTS --> and <!-- end -->.

    Args:
      files: paths of Markdown files.
      tables: NAME to function from the arguments, strings, to Markdown.

    Raises:
      UserError: a name is unknown.
      SystemExit: a table differs; the message is a diff.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help="write the tables")
    parser.add_argument("--check", action="store_true", help="compare the tables (default)")
    write = parser.parse_args(argv).write

    def replace(match):
        name, *arguments = match[2].split()
        if name not in tables:
            raise UserError(f"there is no table {name} for <!-- {marker}: {match[2]} -->: use {', '.join(tables)}")
        return f"{match[1]}{tables[name](*arguments)}{match[3]}"

    differences = []
    for file in files:
        before = file.read_text()
        after = re.sub(rf"(<!-- {marker}: (.*?) -->\n).*?(<!-- end -->)", replace, before, flags=re.DOTALL)
        if write:
            file.write_text(after)
        else:
            lines = before.splitlines(), after.splitlines()
            differences += difflib.unified_diff(*lines, str(file), "generated", lineterm="")
    if differences:
        sys.exit("\n".join(differences))
