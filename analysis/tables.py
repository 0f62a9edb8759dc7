"""The tables that the report shows as text and as HTML."""

from typing import NamedTuple

from analysis.statistics import mean_interval


class Table(NamedTuple):
    caption: str
    header: list  # of str; the first column is the name of the row
    rows: list  # of lists of str


def summary_table(group):
    """Raw, EMA and gain at the last epoch; the gain is paired: its interval is that of each seed's difference."""
    raw, ema = group.raw[:, -1], group.ema[:, -1]
    rows = [
        ["raw weights, %", *_cells(raw)],
        ["EMA weights, %", *_cells(ema)],
        ["gain, points", *_cells(ema - raw, sign="+")],
    ]
    return Table(f"Test accuracy after epoch {group.epochs[-1]}, {seeds(group)}", ["", "mean", "95% interval"], rows)


def classifier_table(group):
    """Every classifier at the last epoch, and its gains paired with raw; None where raw and one EMA are all there is.

    The batch statistics are as large an effect as the averaging of the weights, so where the raw network was evaluated
    with recomputed statistics too, each gain is also given against the raw network with the same statistics.
    """
    final = group.classifiers
    if len(final) <= 2:
        return None
    fair = any(label.startswith("raw/") for label in final)
    header = ["classifier", "accuracy, %", "95% interval", "gain over raw", "95% interval"]
    header += ["gain at equal statistics", "95% interval"] if fair else []
    rows = []
    for label, accuracy in final.items():
        row = [label, *_cells(accuracy), *_gain(final, label, "raw")]
        rows.append(row + _gain(final, label, equal_statistics(label)) if fair else row)
    return Table(f"Every classifier after epoch {group.epochs[-1]}, {seeds(group)}", header, rows)


def equal_statistics(label):
    """The raw classifier with the batch statistics of `ema/<decay>/<batch_stats>`; None for a raw one."""
    if not label.startswith("ema/"):
        return None
    policy = label.rpartition("/")[2]
    return "raw" if policy == "raw" else f"raw/{policy}"


def run_table(group):
    """One row per run: its numbers, and where they were made."""
    header = ["run", "seed", "epochs", "raw, %", "EMA, %", "gain", "precision", "device", "versions", "commit"]
    rows = []
    for run, raw, ema in zip(group.runs, group.raw[:, -1], group.ema[:, -1], strict=True):
        versions = ", ".join(f"{name} {version}" for name, version in run.config.get("versions", {}).items())
        numbers = [f"{100 * raw:.2f}", f"{100 * ema:.2f}", f"{100 * (ema - raw):+.2f}"]
        made = [run.config.get("precision"), run.config.get("device"), versions, run.config.get("git_commit")]
        last = str(run.rows[-1]["epoch"])
        rows.append([str(run.path), str(run.flags.seed), last, *numbers, *(str(value or "unknown") for value in made)])
    return Table(f"The runs, their accuracy after epoch {group.epochs[-1]}, and where they were made", header, rows)


def seeds(group):
    """In words: how many seeds, and what that means for the intervals."""
    if len(group.runs) == 1:
        return f"one seed ({group.runs[0].flags.seed}), so no interval"
    listed = ", ".join(str(run.flags.seed) for run in group.runs)
    return f"mean of {len(group.runs)} seeds ({listed}) with 95% t-interval"


def _gain(final, label, baseline):
    if baseline not in final or baseline == label:
        return ["-", "-"]
    return _cells(final[label] - final[baseline], sign="+")


def _cells(fractions, sign=""):
    """Mean and interval as text, in percent, of fractions [S]."""
    mean, half = mean_interval(100 * fractions)
    if half is None:
        return [f"{mean:{sign}.2f}", "-"]
    return [f"{mean:{sign}.2f}", f"[{mean - half:{sign}.2f}, {mean + half:{sign}.2f}]"]


def as_text(table):
    """The table in fixed-width columns: names to the left, numbers to the right."""
    lines = [table.header, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formatted = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        formatted.append("  ".join(cells).rstrip())
    return "\n".join([table.caption, *formatted])
