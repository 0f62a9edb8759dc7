"""Makes the tables of the benchmark from the JSON files in results/bench.

python benchmarks/summarize.py --write    # writes the tables into benchmarks/README.md and README.md; --check compares

Every ratio is taken within a round, because a drifting machine slows a whole round. The median over rounds ignores the
few rounds that other programs disturb.
"""

import json
import re
from statistics import median

import numpy as np
from worker import ROOT

from analysis.formatting import Table, as_markdown, update_blocks
from training.cli import one_line_errors

RESULTS = ROOT / "results" / "bench"
READMES = [ROOT / "benchmarks" / "README.md", ROOT / "README.md"]
ARCHITECTURES = {(25, 17): "Zen 4", (26, 2): "Zen 5"}  # (family, model) of processors that share the name "AMD EPYC"
PREFIXES = ("train.py", "pytorch", "convolutions")  # of the names of rows
MIN_ROUNDS = 6  # for a bootstrap interval; with three rounds it would cover 74% instead of 95%


def interval(values):
    """Returns the 95% interval of the median: percentile bootstrap (Efron 1979), or min and max of too few rounds."""
    if len(values) < MIN_ROUNDS:
        return min(values), max(values)
    resamples = np.random.default_rng(0).choice(values, (10_000, len(values)))
    return tuple(np.percentile(np.median(resamples, axis=1), [2.5, 97.5]))


def rates(row):
    """Returns the images per second of each turn."""
    return row["steps"] * row["batch_size"] / np.array(row["seconds"])


def fastest(rows, prefix):
    """Returns the row with the highest median rate among the names that start with `prefix`, or None."""
    candidates = [row for row in rows if row["name"].startswith(prefix)]
    return max(candidates, key=lambda row: median(rates(row)), default=None)


def ratio(row, reference):
    """Returns the speed of `row` over that of `reference` in each round; empty if a row is None."""
    if not (row and reference):
        return []
    if row["group"] != reference["group"]:  # measured one after another, so rounds do not correspond
        return [median(rates(row)) / median(rates(reference))]
    return rates(row) / rates(reference)


def overhead(row, reference, decays):
    """Returns the time that each of `decays` more decays adds to a step, as a fraction of the reference's time."""
    return (np.array(row["seconds"]) / reference["seconds"] - 1) / decays if row and reference else []


def format_rounds(values, form):
    """Formats the median with its [interval], or with (all values) of too few rounds; "-" without values."""
    if len(values) < 2:
        return form.format(values[0]) if len(values) else "-"
    middle = form.format(median(values))
    if len(values) < MIN_ROUNDS:
        return f"{middle} ({', '.join(map(form.format, values))})"
    return f"{middle} [{', '.join(map(form.format, interval(values)))}]"


def processor(result):
    """Returns the name of the GPU, if one was used, and the name, family, model and cores of the processor."""
    machine = result["machine"]
    family, model = machine["family"], machine["model"]
    kind = "family unknown" if family is None else f"family {family} model {model}"
    if (family, model) in ARCHITECTURES:
        kind += f" ({ARCHITECTURES[family, model]})"
    device = result["rows"][0]["about"]["device"]
    gpu = device.removeprefix("GPU, ") + ", " if device.startswith("GPU") else ""
    return f"{gpu}{machine['cpu']}, {kind}, {machine['cores']} cores"


def slug(result):
    """Returns `processor` as a file name."""
    return "-".join(re.findall(r"[a-z0-9]+", processor(result).replace("(R)", "").replace("(TM)", "").lower()))


def by_batch_size(result):
    """Returns a dict from batch size to rows."""
    sizes = sorted({row["batch_size"] for row in result["rows"]})
    return {size: [row for row in result["rows"] if row["batch_size"] == size] for size in sizes}


def table_of_processors(results):
    """Returns one row per processor and batch size at which train.py and PyTorch were measured."""
    body = []
    for result in results:
        for size, rows in by_batch_size(result).items():
            ours, pytorch, convolutions = (fastest(rows, prefix) for prefix in PREFIXES)
            if ours and pytorch:
                speeds = [f"{median(rates(row)):,.0f}" for row in (ours, pytorch)]
                over_pytorch = format_rounds(ratio(ours, pytorch), "{:.2f}")
                over_convolutions = format_rounds(ratio(ours, convolutions), "{:.1%}")
                body.append([processor(result), str(size), *speeds, over_pytorch, over_convolutions])
    header = ["processor", "batch", "train.py, images/s", "PyTorch's best", "ratio", "of convolutions alone"]
    return Table("", header, body)


def table_of_speeds(rows):
    """Returns one row per implementation, for rows of one batch size."""
    ours, convolutions = fastest(rows, "train.py"), fastest(rows, "convolutions")
    body = []
    for row in [row for row in rows if not row["name"].startswith("averages")]:
        speeds = rates(row)
        cells = [f"{value:,.1f}" for value in (median(speeds), min(speeds), max(speeds))]
        for reference in (ours, convolutions):
            cells.append(f"{median(ratio(row, reference)):.3f}" if reference else "-")
        first_step, memory = row["about"]["first_step_seconds"], row["peak_bytes"] / 1e9
        body.append([row["name"].replace("-", " "), *cells, f"{first_step:.1f}", f"{memory:.2f}"])
    header = ["images/s", "min", "max", "of train.py", "of convolutions", "first step, s", "memory, GB"]
    return Table("", [f"batch {rows[0]['batch_size']}", *header], body)


def table_of_targets(rows):
    """Returns one row per target that was measured, for rows of one batch size."""
    ours, pytorch, convolutions = (fastest(rows, prefix) for prefix in PREFIXES)
    named = {row["name"]: row for row in rows}
    none, one, eight = (named.get(f"averages-{number}") for number in (0, 1, 8))
    targets = [
        target("train.py over PyTorch, each at its best", ratio(ours, pytorch), "{:.2f}", ">=", 1.05),
        target("train.py over the TF 1.x baseline", ratio(ours, named.get("tf1-baseline")), "{:.2f}", ">=", 1.9),
        target("train.py over the convolutions", ratio(ours, convolutions), "{:.1%}", ">=", 0.87),
        target("EMA adds to the step", overhead(one, none, 1), "{:.1%}", "<=", 0.02),
        target("each extra decay adds", overhead(eight, one, 7), "{:.2%}", "<=", 0.01),
    ]
    return Table("", ["target", "measured", "bound", ""], [row for row in targets if row])


def target(name, values, form, sign, bound):
    """Returns a row: the measured values, the bound, and whether the whole interval meets it; None without values."""
    if not len(values):
        return None
    met = {value >= bound if sign == ">=" else value <= bound for value in interval(values)}
    verdict = {(True,): "met", (False,): "not met"}.get(tuple(met), "unsure")
    return [name, format_rounds(values, form), f"{sign} {form.format(bound)}", verdict]


def render(result, to_text):
    """Returns all tables of a result and its skipped implementations; `to_text` is as_text or as_markdown."""
    versions = {}
    for row in result["rows"]:
        versions |= {name: row["about"][name] for name in ("tensorflow", "torch") if name in row["about"]}
    title = [processor(result), result["machine"]["system"], *map(" ".join, versions.items())]
    parts = [", ".join([*title, f"{result['settings']['rounds']} rounds"])]
    for rows in by_batch_size(result).values():
        tables = table_of_speeds(rows), table_of_targets(rows)
        parts += [to_text(table).rstrip() for table in tables if table.rows]
    parts += [f"{name} was skipped: {reason}" for name, reason in result["skipped"].items()]
    return "\n\n".join(parts)


def main(argv=None, readmes=READMES, folder=RESULTS):
    results = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    speed, link = as_markdown(table_of_processors(results.values())), "\n\n[every sample](../results/bench/{})\n"
    measured = "\n".join(render(result, as_markdown) + link.format(name) for name, result in results.items())
    update_blocks(readmes, "benchmarks", {"speed": lambda: speed, "measured": lambda: measured}, argv)


if __name__ == "__main__":
    with one_line_errors():
        main()
