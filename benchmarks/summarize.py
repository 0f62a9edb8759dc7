"""The tables of benchmarks, from their JSON alone.

python benchmarks/summarize.py                  # prints the short one: a row for each processor in results/bench
python benchmarks/summarize.py --write          # puts them into benchmarks/README.md and README.md; --check compares
"""

import argparse
import json
import re
import sys
from statistics import median

import numpy as np
from worker import ROOT

from analysis.formatting import Table, as_markdown

RESULTS = ROOT / "results" / "bench"
READMES = [ROOT / "benchmarks" / "README.md", ROOT / "README.md"]
BLOCK = re.compile(r"(<!-- benchmarks: (speed|measured) -->\n).*?(<!-- end -->)", re.DOTALL)
ARCHITECTURES = {(25, 17): "Zen 4", (26, 2): "Zen 5"}  # (family, model) of processors that are all called "AMD EPYC"
ENOUGH_ROUNDS = 6  # for a bootstrap interval, which at three rounds would cover 74 times in 100 instead of 95
RESAMPLES = 10_000

# ---------------------------------------------------------------------------------------------------------------
# Statistics. A machine whose speed drifts, or that other programs disturb for a moment, moves all turns of a round or a
# few single ones: every figure is made within a round, and the median over rounds does not mind the few.


def interval(values):
    """95% of the median over rounds, percentile bootstrap (Efron 1979); of too few rounds least and greatest."""
    if len(values) < ENOUGH_ROUNDS:
        return min(values), max(values)
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    return tuple(np.percentile(np.median(drawn, axis=1), [2.5, 97.5]))


def rates(row):
    """Images per second of each turn."""
    return row["steps"] * row["batch_size"] / np.array(row["seconds"])


def fastest(rows, prefix):
    """The row with the highest median rate of those whose name begins with `prefix`, or None."""
    found = [row for row in rows if row["name"].startswith(prefix)]
    return max(found, key=lambda row: median(rates(row)), default=None)


def ratio(row, reference):
    """Speed of `row` over that of `reference` in each round; empty without both."""
    if not (row and reference):
        return []
    if row["group"] != reference["group"]:  # they took no turns: there are no rounds, only medians
        return [median(rates(row)) / median(rates(reference))]
    return rates(row) / rates(reference)


def cost(row, reference, decays):
    """What each of so many more decays adds to a step of `reference`, as a fraction of it, in each round."""
    return (np.array(row["seconds"]) / reference["seconds"] - 1) / decays if row and reference else []


# ---------------------------------------------------------------------------------------------------------------
# Tables


def show(values, form):
    """The median over rounds with its [interval] or, of too few rounds, (all values); a dash without any."""
    if len(values) < 2:
        return "".join(map(form.format, values)) or "-"
    middle = form.format(median(values))
    if len(values) < ENOUGH_ROUNDS:
        return f"{middle} ({', '.join(map(form.format, values))})"
    return f"{middle} [{', '.join(map(form.format, interval(values)))}]"


def processor(result):
    """What a result was measured on, in words."""
    machine, (first, *_) = result["machine"], result["rows"]
    family, model = machine["family"], machine["model"]
    known = f" ({ARCHITECTURES[family, model]})" if (family, model) in ARCHITECTURES else ""
    kind = "family unknown" if family is None else f"family {family} model {model}{known}"
    device, _, name = first["about"]["device"].partition(", ")
    return f"{f'{name}, ' if device == 'GPU' else ''}{machine['cpu']}, {kind}, {machine['cores']} cores"


def slug(result):
    """`processor` as the name of a file."""
    return "-".join(re.findall(r"[a-z0-9]+", re.sub(r"\((R|TM)\)", "", processor(result)).lower()))


def compared(result):
    """For each batch size: (it, name to row, the fastest of train.py, of PyTorch and of the convolutions)."""
    for size in sorted({row["batch_size"] for row in result["rows"]}):
        rows = {row["name"]: row for row in result["rows"] if row["batch_size"] == size}
        yield size, rows, *(fastest(rows.values(), prefix) for prefix in ("train.py", "pytorch", "convolutions"))


def short(results):
    """A row for each processor, and batch size, that train.py was measured on beside PyTorch."""
    cells = []
    for result in results:
        for size, _, ours, pytorch, convolutions in compared(result):
            if ours and pytorch:
                speeds = (f"{median(rates(row)):,.0f}" for row in (ours, pytorch))
                shares = show(ratio(ours, pytorch), "{:.2f}"), show(ratio(ours, convolutions), "{:.1%}")
                cells.append([processor(result), str(size), *speeds, *shares])
    header = ["processor", "batch", "train.py, images/s", "PyTorch's best", "ratio", "of convolutions alone"]
    return as_markdown(Table("", header, cells))


def everything(result, render):
    """All tables of a result, by as_text or as_markdown: speeds and targets for each batch size; what was left out."""
    about = {key: row["about"][key] for row in result["rows"] for key in ("tensorflow", "torch") if key in row["about"]}
    words = [processor(result), result["machine"]["system"], *map(" ".join, about.items())]
    parts = [", ".join([*words, f"{result['settings']['rounds']} rounds"])]
    header = ["images/s", "min", "max", "of train.py", "of convolutions", "first step, s", "memory, GB"]
    for size, rows, ours, pytorch, convolutions in compared(result):
        cells = [
            [
                name.replace("-", " "),
                *(f"{value:,.1f}" for value in (median(rates(row)), min(rates(row)), max(rates(row)))),
                *(f"{np.median(ratio(row, it)):.3f}" if it else "-" for it in (ours, convolutions)),
                f"{row['about']['first_step_seconds']:.1f}",
                f"{row['peak_bytes'] / 1e9:.2f}",
            ]
            for name, row in rows.items()
            if not name.startswith("averages")
        ]
        none, one, eight = (rows.get(f"averages-{count}") for count in (0, 1, 8))
        targets = (
            target("train.py over PyTorch, each at its best", ratio(ours, pytorch), "{:.2f}", ">=", 1.05),
            target("train.py over the TF 1.x habit", ratio(ours, rows.get("tf1-habit")), "{:.2f}", ">=", 1.9),
            target("train.py over the convolutions", ratio(ours, convolutions), "{:.1%}", ">=", 0.87),
            target("EMA adds to the step", cost(one, none, 1), "{:.1%}", "<=", 0.02),
            target("each extra decay adds", cost(eight, one, 7), "{:.2%}", "<=", 0.01),
        )
        found = [row for row in targets if row]
        both = Table("", [f"batch {size}", *header], cells), Table("", ["target", "measured", "bound", ""], found)
        parts += [render(table).rstrip() for table in both if table.rows]
    return "\n\n".join([*parts, *(f"{name} was left out: {why}" for name, why in result["skipped"].items())])


def target(name, values, form, sign, bound):
    """A row of targets: what was measured, its bound, and whether the whole interval is within; None without any."""
    if not len(values):
        return None
    met = {value >= bound if sign == ">=" else value <= bound for value in interval(values)}
    verdict = "unsure" if len(met) > 1 else "met" if met == {True} else "not met"
    return [name, show(values, form), f"{sign} {form.format(bound)}", verdict]


def main(argv=None, readmes=READMES, folder=RESULTS):
    parser = argparse.ArgumentParser(prog="summarize.py", description="The tables of results/bench.")
    parser.add_argument("--write", action="store_true", help="write them into the READMEs, instead of printing one")
    parser.add_argument("--check", action="store_true", help="check that they are there: else exit status 1")
    options = parser.parse_args(argv)
    results = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    blocks = {"speed": short(results.values())}
    blocks["measured"] = "\n".join(
        f"{everything(result, as_markdown)}\n\n[every sample](../results/bench/{name})\n"
        for name, result in results.items()
    )
    if not (options.write or options.check):
        print(blocks["speed"], end="")
        return
    for readme in readmes:
        before = readme.read_text()
        after = BLOCK.sub(lambda match: f"{match[1]}{blocks[match[2]]}{match[3]}", before)
        if options.write:
            readme.write_text(after)
        elif after != before:
            sys.exit(f"summarize.py: {readme} is not made from {folder}: python benchmarks/summarize.py --write")


if __name__ == "__main__":
    main()
