"""The tables that the report shows as text and as HTML; each gain stands beside the name of its baseline."""

from typing import NamedTuple

from analysis.statistics import mean_interval
from training.labels import baseline_of


class Table(NamedTuple):
    caption: str
    header: list  # of str; the first column is the name of the row
    rows: list  # of lists of str


def summary_table(group):
    """Raw, baseline, EMA and gain at the last epoch; the gain's interval is that of each seed's difference."""
    baseline, ema = group.baseline[:, -1], group.ema[:, -1]
    rows = [["raw, %", *_cells(group.raw[:, -1])]]
    if group.against != "raw":
        rows.append([f"{group.against}, %", *_cells(baseline)])
    rows.append([f"{group.name}, %", *_cells(ema)])
    rows.append([f"gain over {group.against}, points", *_cells(ema - baseline, sign="+")])
    caption = f"Test accuracy after epoch {group.epochs[-1]}, {seeds(group.runs)}"
    return Table(caption, ["", "mean", "95% interval"], rows)


def classifier_table(group):
    """Every classifier at the last epoch, its gain and over which baseline; None where raw and one EMA are all."""
    final = group.classifiers
    if len(final) <= 2:
        return None
    header = ["classifier", "accuracy, %", "95% interval", "gain, points", "95% interval", "against"]
    rows = []
    for label, accuracy in final.items():
        against = baseline_of(label, final)
        gain = ["-", "-"] if against is None else _cells(accuracy - final[against], sign="+")
        rows.append([label, *_cells(accuracy), *gain, against or "-"])
    return Table(f"Every classifier after epoch {group.epochs[-1]}, {seeds(group.runs)}", header, rows)


# Measure of `beyond` to the name of its row, the scale and the digits of its numbers.
MEASURES = {
    "accuracy": ("accuracy, %", 100, 2),
    "loss": ("test loss, nats", 1, 4),
    "calibration": ("calibration error, %", 100, 2),
    "churn": ("churn between seeds, %", 100, 2),
}


def beyond_table(group, beyond):
    """What accuracy does not say, of the runs that left predictions; None where none did."""
    if not beyond.measures:
        return None
    rows = []
    for key, measure in beyond.measures.items():
        name, scale, digits = MEASURES[key]
        means = [shown(scale * value, digits=digits) for value in (measure.baseline, measure.ema)]
        half = None if measure.half is None else scale * measure.half
        rows.append([name, *means, *estimate(scale * measure.difference, half, "+", digits)])
    caption = f"Beyond accuracy, after epoch {group.epochs[-1]}, {seeds(beyond.runs)}"
    if "churn" in beyond.measures:
        caption += " (churn: jackknife over seeds)"
    return Table(caption, ["", group.against, group.primary, "difference", "95% interval"], rows)


def run_table(group):
    """One row per run: its numbers, and where they were made."""
    names = ["raw", group.against, group.name] if group.against != "raw" else ["raw", group.name]
    accuracies = [group.raw, group.baseline, group.ema] if group.against != "raw" else [group.raw, group.ema]
    header = ["run", "seed", "epochs", *(f"{name}, %" for name in names), f"gain over {group.against}"]
    rows = []
    for index, run in enumerate(group.runs):
        numbers = [f"{100 * accuracy[index, -1]:.2f}" for accuracy in accuracies]
        gain = shown(100 * (group.ema - group.baseline)[index, -1], "+")
        versions = ", ".join(f"{name} {version}" for name, version in run.config.get("versions", {}).items())
        made = [run.config.get("precision"), run.config.get("device"), versions, run.config.get("git_commit")]
        last = str(run.rows[-1]["epoch"])
        rows.append([str(run.path), str(run.flags.seed), last, *numbers, gain, *(str(it or "unknown") for it in made)])
    caption = f"The runs, their accuracy after epoch {group.epochs[-1]}, and where they were made"
    return Table(caption, [*header, "precision", "device", "versions", "commit"], rows)


def flag_table(group):
    return Table("Flags of every run of this group", ["flag", "value"], [list(item) for item in group.shape.items()])


def seeds(runs):
    """In words: how many seeds, and what that means for the intervals."""
    if len(runs) == 1:
        return f"one seed ({runs[0].flags.seed}), so no interval"
    listed = ", ".join(str(run.flags.seed) for run in runs)
    return f"mean of {len(runs)} seeds ({listed}) with 95% t-interval"


def _cells(fractions, sign=""):
    """Mean and interval as text, in percent, of fractions [S]."""
    return estimate(*mean_interval(100 * fractions), sign, 2)


def estimate(mean, half, sign="", digits=2):
    """Mean and interval as text; half the interval's width is None where one seed says nothing of it."""
    if half is None:
        return [shown(mean, sign, digits), "-"]
    return [shown(mean, sign, digits), f"[{shown(mean - half, sign, digits)}, {shown(mean + half, sign, digits)}]"]


def shown(value, sign="", digits=2):
    """A number as text; the same whatever the order of the sums that it comes of, on the edge between two as well.

    What rounds to nothing has no minus.
    """
    return f"{round(round(value, 9), digits) + 0.0:{sign}.{digits}f}"


def as_text(table):
    """The table in fixed-width columns: names to the left, numbers to the right."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formatted = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        formatted.append("  ".join(cells).rstrip())
    return "\n".join([table.caption, *formatted])
