"""Tables, as text and as Markdown, and those that the report shows; each gain is over the fair baseline."""

import textwrap
from typing import NamedTuple

import numpy as np

from analysis.statistics import INTERVAL_FROM, calibration_error, churn, cross_entropy, mean_interval, pairs_interval
from training.labels import Label, baseline_of


class Table(NamedTuple):
    caption: str
    header: list  # of str; the first column is the name of the row
    rows: list  # of lists of str

    @property
    def in_words(self):
        """For each column whether it holds display_name, which stand left, and not numbers."""
        return [any(letter.isalpha() for cell in column for letter in cell) for column in zip(*self.rows, strict=True)]


def as_text(table):
    """The table in columns of fixed width, below its caption if it has one."""
    columns = []
    for in_words, *cells in zip(table.in_words, table.header, *table.rows, strict=True):
        width = max(map(len, cells))
        columns.append([cell.ljust(width) if in_words else cell.rjust(width) for cell in cells])
    lines = ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
    return "\n".join([*textwrap.wrap(table.caption, 120), *lines])


def as_markdown(table):
    """The table in Markdown, without its caption."""
    rule = ["---" if in_words else "---:" for in_words in table.in_words]
    return "".join(f"| {' | '.join(line)} |\n" for line in [table.header, rule, *table.rows])


def format_number(value, sign="", digits=2):
    """A number as text; the same whatever the order of the sums that it comes of, on the edge between two as well.

    What rounds to nothing has no minus.
    """
    return f"{round(round(value, 9), digits) + 0.0:{sign}.{digits}f}"


def with_interval(mean, half, sign="", digits=2):
    """ "1.59 [1.15, 2.04]"; "1.59" where half the interval's width is None."""
    middle, low, high = (format_number(mean + change, sign, digits) for change in (0, -(half or 0), half or 0))
    return middle if half is None else f"{middle} [{low}, {high}]"


def over_seeds(values, sign="", digits=2):
    """The mean of values [S], with its 95% interval or, of seeds too few for one, with each: "1.50 (1.00, 2.00)"."""
    text = with_interval(*mean_interval(values), sign, digits)
    if 1 < len(values) < INTERVAL_FROM:
        text += f" ({', '.join(format_number(value, sign, digits) for value in values)})"
    return text


def listed(seeds):
    """In words: how many seeds, and what is shown of them."""
    if len(seeds) == 1:
        return f"one seed ({seeds[0]}), so no interval"
    what = "95% t-interval" if len(seeds) >= INTERVAL_FROM else "each"
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))}), mean and {what}"


def display_name(label):
    """The name of a classifier for people, of the text of its label."""
    return Label.parse(label).display_name


def accuracy_table(group):
    """Every classifier at the last epoch, and its gain over its own baseline, paired by seed."""
    rows = []
    for label, accuracy in group.final.items():
        against = baseline_of(label, group.final)
        gain = over_seeds(100 * (accuracy - group.final[against]), "+") if against else "-"
        name = display_name(label) + (" *" if label == group.average else "")
        rows.append([name, over_seeds(100 * accuracy), gain, display_name(against) if against else "-"])
    caption = f"Test accuracy after epoch {group.epochs[-1]}, {listed(group.seeds)}; * {group.reason}"
    return Table(caption, ["", "accuracy, %", "gain, points", "over"], rows)


def predictions_table(group, found):
    """Test loss, calibration and churn between seeds, of `groups.predictions_of`; None without predictions.

    Averages were found to differ most there (Morales-Brotons et al. 2024).
    """
    if not found:
        return None
    rows = []
    for name, function, scale, digits in (
        ("test loss, nats", cross_entropy, 1, 4),
        ("calibration error, %", calibration_error, 100, 2),
    ):
        pairs = [[function(logits, one.labels) for logits in (one.baseline, one.ema)] for one in found]
        values = scale * np.array(pairs)
        means = (format_number(value, digits=digits) for value in values.mean(0))
        rows.append([name, *means, over_seeds(values[:, 1] - values[:, 0], "+", digits)])
    if len(found) > 1:
        answers = np.array([[one.baseline.argmax(1), one.ema.argmax(1)] for one in found])  # [S, 2, N]
        means = (format_number(100 * churn(answers[:, which])) for which in range(2))
        # A difference of two means over pairs is a mean over pairs too.
        difference, half = pairs_interval(lambda some: 100 * (churn(some[:, 1]) - churn(some[:, 0])), answers)
        rows.append(["churn between seeds, %", *means, with_interval(difference, half, "+")])
    seeds = listed([one.run.flags.seed for one in found])
    caption = f"Loss, calibration and churn (its interval by jackknife) after epoch {group.epochs[-1]}, {seeds}"
    return Table(caption, ["", display_name(group.against), display_name(group.average), "difference"], rows)


def run_table(group):
    """One row per run: its numbers, and where they were made."""
    rows = []
    for index, run in enumerate(group.runs):
        numbers = [format_number(100 * group.final[label][index]) for label in group.compared]
        gain = format_number(100 * group.gain[index, -1], "+")
        versions = ", ".join(f"{name} {version}" for name, version in run.config.get("versions", {}).items())
        made = (str(run.config.get(name) or "unknown") for name in ("precision", "device", "git_commit"))
        rows.append([str(run.path), str(run.flags.seed), str(run.rows[-1]["epoch"]), *numbers, gain, *made, versions])
    caption = f"The runs, their accuracy after epoch {group.epochs[-1]}, and where they were made"
    compared = (f"{display_name(label)}, %" for label in group.compared)
    header = ["run", "seed", "epochs", *compared, "gain, points", "precision", "device", "commit", "versions"]
    return Table(caption, header, rows)
