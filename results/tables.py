"""Writes the numbers of README.md and results/README.md from the logs here, or checks that they are what the logs say.

    python results/tables.py --write
    python results/tables.py --check    # exit status 1 and what differs, where README and logs do not agree

What stands between <!-- results: NAME --> and <!-- end --> is what the function of that name returns. A number with a
decimal point in the prose of README.md that is in no such block must be one of CONSTANTS.
"""

import argparse
import difflib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from analysis.finished import read_run  # noqa: E402

from analysis import tables  # noqa: E402
from analysis.annealing import compare, find_pairs  # noqa: E402
from analysis.groups import make_groups  # noqa: E402
from analysis.statistics import mean_interval  # noqa: E402
from training import console  # noqa: E402
from training.labels import Label  # noqa: E402

RESULTS = ROOT / "results"
READMES = [ROOT / "README.md", RESULTS / "README.md"]
BLOCK = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

# Numbers that the prose may name, and where they come from.
CONSTANTS = {
    "3.10": "requirements.txt",
    "3.13": "requirements.txt",
    "1.15": "the version of TensorFlow that the guide was written for",
    "0.998": "the guide's decay",
    "0.5": "the guide's dropout rate; --width of the experiments, in config.json",
    "0.4": "--label_noise of the experiment, in config.json",
    "78.1": "Morales-Brotons et al. 2024, arXiv 2411.18704",
    "86.7": "the same",
}


# ---------------------------------------------------------------------------------------------------------------
# Reading


def rows(run):
    """The rows of metrics.jsonl of a run: epoch to row."""
    lines = (RESULTS / run / "metrics.jsonl").read_text().splitlines()
    return {row["epoch"]: row for row in map(json.loads, lines)}


def table(run):
    """The rows of `evaluate.py table` of a run."""
    return json.loads((RESULTS / run / "table.json").read_text())


def seeds(experiment):
    """The runs of an experiment that are there, by seed."""
    return {int(path.name.removeprefix("seed-")): f"{experiment}/{path.name}" for path in folders(experiment, "seed-*")}


def shared(*experiments):
    """The runs by seed of each of these experiments, of the seeds that all of them have: only such are compared."""
    found = [seeds(experiment) for experiment in experiments]
    common = sorted(set.intersection(*map(set, found)))
    if not common:
        raise ValueError(f"{' and '.join(experiments)} share no seed")
    return [{seed: runs[seed] for seed in common} for runs in found]


def folders(experiment, pattern):
    return sorted(path for path in (RESULTS / experiment).glob(pattern) if (path / "metrics.jsonl").exists())


def accuracy(runs, label, epoch, key="classifiers"):
    """Accuracy in % of a classifier after an epoch, [S]."""
    return np.array([100 * rows(run)[epoch][key][label] for run in runs.values()])


def epochs(runs):
    """The epochs that all of the runs evaluated, ascending."""
    return sorted(set.intersection(*(set(rows(run)) for run in runs.values())))


def chosen(runs, epoch):
    """The decay that is the best on the images held out, with recomputed statistics, mean over seeds."""
    return max(decays(runs), key=lambda decay: accuracy(runs, averaged(decay), epoch, "validation").mean())


def averaged(decay):
    """The label of a decay with recomputed statistics."""
    return str(Label("ema", decay, "recomputed"))


def decays(runs):
    """The decays of the runs, shortest horizon first."""
    labels = map(Label.parse, next(iter(rows(next(iter(runs.values()))).values()))["classifiers"])
    return sorted({label.decay for label in labels if label.decay}, key=float)


def horizon(decay, runs):
    """The horizon of a decay, as "0.71 epochs"."""
    epoch, row = next(iter(rows(next(iter(runs.values()))).items()))
    return f"{1 / (1 - float(decay)) / (row['step'] / epoch):.2g} epochs"


# ---------------------------------------------------------------------------------------------------------------
# Writing


def markdown(header, body, left=1):
    """A Markdown table; the first `left` columns hold words."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def mean(values):
    return tables.shown(values.mean())


def estimate(values, sign=""):
    """Mean, and its interval over seeds, as "88.61 [88.10, 89.12]"; two seeds, which say little of one, stand alone."""
    if len(values) == 2:
        both, *each = (tables.shown(value, sign) for value in (values.mean(), *values))
        return f"{both} ({', '.join(each)})"
    return " ".join(cell for cell in tables.estimate(*mean_interval(values), sign) if cell != "-")


def count(runs):
    """ "3 seeds"."""
    return f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"


def over(runs):
    """ "3 seeds (0, 1, 2)"."""
    return f"{count(runs)} ({', '.join(map(str, runs))})"


STARTS = ("initial", "warmup", "unbiased")  # those of ema.py, whose import would take TensorFlow's seconds
BASELINE, EMA = "raw/recomputed", "ema/0.998/recomputed"


# ---------------------------------------------------------------------------------------------------------------
# Blocks


def answer():
    """How much EMA is worth, when, and against what."""
    found = {row["label"]: row for row in table("guide/seed-0")}
    alone = found["ema/0.998/raw"]
    last_ten = sorted(
        100 * (row["ema_accuracy"] - row["raw_accuracy"]) for row in list(rows("guide/seed-0").values())[-10:]
    )
    runs, cooled = shared("gain", "cooldown")
    epoch = epochs(cooled)[-1]
    cooldown = json.loads((RESULTS / next(iter(cooled.values())) / "config.json").read_text())["flags"]["lr_cooldown"]
    plain, ema = (accuracy(runs, label, epoch) for label in (BASELINE, EMA))
    annealed, both = (accuracy(cooled, label, epoch) for label in (BASELINE, EMA))
    best = chosen(runs, epoch)
    return (
        f"**`python train.py` and nothing else: after 20 epochs the averaged weights classify {percent(alone)} of the "
        f"test images, the raw weights {percent(found['raw'])}: {over_images(alone)} points** (one seed, 95% interval "
        f"over the test images; in the last ten epochs the gain was {tables.shown(last_ten[0], '+')} to "
        f"{tables.shown(last_ten[-1], '+')}). A part of that is batch statistics, not averaging: with those recomputed "
        f"for both it is {percent(found[EMA])} against {percent(found[BASELINE])}, {over_images(found[EMA])}. So "
        f"compared, at half the width and over {count(runs)}, it is {ema.mean():.1f}% against {plain.mean():.1f}%, "
        f"**{estimate(ema - plain, '+')} points** (95% interval over seeds). From 0.99 to 0.9995 the decay then "
        f"matters little: the one chosen on validation, `{best}`, which averages over about {horizon(best, runs)}, "
        f"gains {estimate(accuracy(runs, averaged(best), epoch) - plain, '+')}. At epoch {epoch_reached(runs)} the "
        f"EMA of every seed has what its raw weights have at {epoch}. A learning rate that falls to 0 over the last "
        f"{cooldown} epochs gives as much without an average: {annealed.mean():.1f}%, "
        f"**{estimate(annealed - ema, '+')} points over EMA at the constant rate**; EMA on top of it adds "
        f"{estimate(both - annealed, '+')}.{with_wrong_labels()}\n"
    )


def with_wrong_labels():
    runs = seeds("noise")
    if not runs:
        return ""
    gains = accuracy(runs, EMA, epochs(runs)[-1]) - accuracy(runs, BASELINE, epochs(runs)[-1])
    each = ", ".join(tables.shown(gain, "+") for gain in gains)
    return (
        f" With 40% of the training labels wrong EMA is worth **{tables.shown(gains.mean(), '+')} points**, the mean "
        f"of {count(runs)} ({each})."
    )


def paired_gain(fixed, broken, images=10_000):
    """Difference of two accuracies on the same images in points, and half the width of its 95% interval (Wald's).

    Args:
      fixed, broken: how many images one classifier alone has right, and the other alone.
    """
    gain = (fixed - broken) / images
    variance = ((fixed + broken) / images - gain**2) / images
    return 100 * gain, 100 * 1.96 * variance**0.5


def over_images(row):
    """The gain of a row of `evaluate.py table` over its baseline, with its interval."""
    return " ".join(tables.estimate(*paired_gain(row["fixed"], row["broken"]), "+"))


def percent(row):
    return f"{100 * row['accuracy']:.2f}%"


def epoch_reached(runs):
    """The first epoch, of those evaluated, at which the EMA of every seed has what its raw weights have at the end."""
    goals = accuracy(runs, BASELINE, epochs(runs)[-1])
    return next(epoch for epoch in epochs(runs) if (accuracy(runs, EMA, epoch) >= goals).all())


def log():
    """Some lines of the log of `python train.py`."""
    found = rows("guide/seed-0")
    label = Label("ema", "0.998", "raw")
    lines = [console.header(("raw", label))]
    for epoch in (1, 2, 3, 5, 10, 20):
        lines += console.evaluation(found[epoch], label)
    return "".join(f"    {line}\n" for line in lines)


def gain():
    runs = seeds("gain")
    epoch = epochs(runs)[-1]
    body = []
    for decay in decays(runs):
        cells = [f"`{decay}`, {horizon(decay, runs)}"]
        for statistics in ("recomputed", "raw"):
            label = Label("ema", decay, statistics)
            values = accuracy(runs, str(label), epoch)
            cells += [mean(values), estimate(values - accuracy(runs, str(label.baseline), epoch), "+")]
        body.append(cells)
    raw = [mean(accuracy(runs, label, epoch)) for label in (BASELINE, "raw")]
    body.insert(0, ["raw weights", raw[0], "-", raw[1], "-"])
    return markdown([over(runs), "recomputed statistics, %", "gain", "raw network's statistics, %", "gain"], body)


def full_width():
    """The same at width 1, of the one seed that has all averages there."""
    found = {row["label"]: row for row in table("wide/seed-1")}
    best = next(row for row in found.values() if row["chosen"])
    length = horizon(Label.parse(best["label"]).decay, seeds("wide"))
    return (
        f"At width 1 ([one seed](results/wide), intervals over the test images) it is {percent(found[EMA])} against "
        f"{percent(found[BASELINE])}, {over_images(found[EMA])}, and with the raw network's statistics "
        f"{over_images(found['ema/0.998/raw'])}; the best on validation is `{best['label']}`, {length}: "
        f"{percent(best)}, {over_images(best)} over `{best['against']}`.\n"
    )


def horizons():
    """By epoch: the decay that is the best on the images held out, and what it gives on the test set."""
    runs = seeds("gain")
    body = []
    for epoch in epochs(runs):
        best = chosen(runs, epoch)
        plain, guides, own = (accuracy(runs, label, epoch) for label in (BASELINE, EMA, averaged(best)))
        cells = [mean(plain), mean(guides), f"`{best}`, {horizon(best, runs)}", mean(own), estimate(own - plain, "+")]
        body.append([str(epoch), *cells])
    return markdown(["epoch", "raw, %", "EMA 0.998, %", "chosen on validation", "EMA chosen, %", "its gain"], body)


def annealing():
    """The report's own table of the runs kept, without its caption."""
    runs = [read_run(RESULTS / run) for experiment in shared("gain", "cooldown") for run in experiment.values()]
    (pair,) = find_pairs(make_groups(runs))
    found = compare(pair)
    body = []
    for name, *cells in found.rows:  # each number is followed by its interval
        numbers = zip(cells[::2], cells[1::2], strict=True)
        body.append([name, *(f"{number} {interval}".removesuffix(" -") for number, interval in numbers)])
    header = [f"after epoch {pair.epoch}, {over(dict.fromkeys(pair.seeds))}", *found.header[1::2]]
    return markdown(header, body)


def beyond():
    """Loss and calibration of all seeds, from the tables of evaluate.py; churn, from a report on their predictions."""
    return "\n".join(
        f"{name}, after epoch {epochs(seeds(experiment))[-1]}, {over(seeds(experiment))}:\n\n"
        f"{beyond_accuracy(experiment, reported_churn(*report))}"
        for name, experiment, report in (
            ("Constant rate", "gain", ("churn/report.json", "lr_cooldown 0")),
            ("Annealed", "cooldown", ("churn/report.json", "epochs 20, lr_cooldown 4")),
            ("40% of the training labels wrong", "noise", ("noise/report/report.json", "")),
        )
        if seeds(experiment)
    )


def beyond_accuracy(experiment, churn):
    body = []
    for name, key, scale, digits in (("test loss, nats", "loss", 1, 4), ("calibration error, %", "ece", 100, 2)):
        found = [{row["label"]: row[key] for row in table(run)} for run in seeds(experiment).values()]
        values = scale * np.array([[one[label] for label in (BASELINE, EMA)] for one in found])
        means = [tables.shown(value, digits=digits) for value in values.mean(0)]
        body.append([name, *means, *tables.estimate(*mean_interval(values[:, 1] - values[:, 0]), "+", digits)])
    return markdown(["", BASELINE, EMA, "difference", "95% interval"], body + churn)


def reported_churn(report, title):
    """The row of a group of a report.json, with the seeds that its predictions were of; none where there is but one."""
    groups = json.loads((RESULTS / report).read_text())["groups"]
    (group,) = (group for group in groups if title in ("", group["title"]))
    table = next(table for table in group["tables"] if table["caption"].startswith("Beyond"))
    listed = re.search(r"\((\d[\d, ]*)\)", table["caption"])[1]
    return [[f"churn between seeds {listed}, %", *row[1:]] for row in table["rows"] if row[0].startswith("churn")]


def posthoc():
    """Post-hoc widths chosen on the images held out, seed by seed."""
    body = []
    for seed, run in seeds("gain").items():
        found = json.loads((RESULTS / run / "posthoc.json").read_text())
        chosen = next(row for row in found["widths"] if row["width"] == found["chosen"])
        tests = [row["accuracy"] for row in found["widths"]]
        accuracies = (chosen["validation"], chosen["accuracy"], found["raw/recomputed"])
        cells = [f"{100 * value:.2f}" for value in accuracies]
        body.append([str(seed), f"{chosen['width']:g}", *cells, f"{100 * min(tests):.2f} to {100 * max(tests):.2f}"])
    header = ["seed", "width chosen", "validation, %", "test, %", "raw/recomputed, %", "test over all widths, %"]
    return markdown(header, body)


def noise():
    """What wrong labels do to raw weights and to averages, with the seeds that both experiments have."""
    clean, noisy = shared("gain", "noise")
    epoch = min(epochs(clean)[-1], epochs(noisy)[-1])
    body = []
    for name, runs in (("clean labels", clean), ("40% wrong", noisy)):
        best = chosen(runs, epoch)
        plain, guides, own = (accuracy(runs, label, epoch) for label in (BASELINE, EMA, averaged(best)))
        cells = [mean(plain), mean(guides), estimate(guides - plain, "+"), f"`{best}`, {horizon(best, runs)}"]
        body.append([name, *cells, mean(own), estimate(own - plain, "+")])
    header = [f"after epoch {epoch}, {over(noisy)}", "raw, %", "EMA 0.998, %", "gain", "chosen on validation"]
    return markdown([*header, "EMA chosen, %", "its gain"], body)


def starts():
    """Every start and policy by epoch, with the raw weights of the same run."""
    body = []
    for start, runs in begun().items():
        for seed, run in runs.items():
            for label in run[max(run)]["classifiers"]:
                cells = [tables.shown(100 * row["classifiers"][label]) for row in run.values()]
                body.append([str(seed), start, f"`{label}`", *cells])
    header = ["seed", "`--ema_start`", "classifier", *(f"epoch {epoch}" for epoch in run)]
    return markdown(header, sorted(body, key=lambda row: row[:2]), left=3)


def begun():
    """The runs of starts: start to {seed: rows}."""
    found = {}
    for folder in folders("starts", "*-seed*"):
        start, _, seed = folder.name.partition("-seed")
        found.setdefault(start, {})[int(seed)] = rows(f"starts/{folder.name}")
    return found


def first_epochs():
    """The first epochs in short: means over the seeds that all starts have, each with the gain over its raw weights.

    The raw weights of a seed are not those of another run of it on another number of cores, which rounds otherwise.
    """
    found = begun()
    common = sorted(set.intersection(*map(set, found.values())))
    body = []
    for start in STARTS:
        cells = []
        for statistics in ("raw", "recomputed"):
            label = Label("ema", "0.998", statistics)
            runs = [[row["classifiers"] for row in found[start][seed].values()] for seed in common]
            values, plain = (
                100 * np.array([[row[str(one)] for row in run] for run in runs]) for one in (label, label.baseline)
            )
            means = zip(values.mean(0), (values - plain).mean(0), strict=True)
            cells += [f"{tables.shown(value)} ({tables.shown(gain, '+')})" for value, gain in means]
        body.append([f"`{start}`", *cells])
    numbers = list(found["initial"][common[0]])
    header = [f"{what}, epoch {epoch}" for what in ("raw statistics", "recomputed") for epoch in numbers]
    return markdown([f"`--ema_start`, {over(dict.fromkeys(common))}", *header], body)


def precision():
    """bfloat16 (of results/starts) beside float32: the raw weights, which no start touches, after the last epoch."""
    body = []
    for seed, start in ((0, "initial"), (1, "warmup")):
        last = max(found := rows(f"starts/{start}-seed{seed}"))
        raw = (f"{100 * found[last]['classifiers'][label]:.2f}" for label in ("raw", BASELINE))
        table = (RESULTS / f"precision/float32-seed{seed}/table.txt").read_text()  # of evaluate.py
        other = (re.search(rf"^{label} +([0-9.]+)%", table, re.MULTILINE)[1] for label in ("raw", BASELINE))
        body += [["bfloat16", str(seed), *raw], ["float32", str(seed), *other]]
    return markdown(["precision", "seed", "`raw`", "`raw/recomputed`"], sorted(body), left=2)


def speed():
    """One row for each processor that benchmarks/bench.py was run on."""
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py")]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


BLOCKS = {
    function.__name__: function
    for function in (
        answer,
        log,
        gain,
        full_width,
        horizons,
        annealing,
        beyond,
        posthoc,
        noise,
        starts,
        first_epochs,
        precision,
        speed,
    )
}


# ---------------------------------------------------------------------------------------------------------------
# The README


def written(text):
    """The README with every block as the logs have it.

    Raises:
      KeyError: a block has the name of no function.
    """
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match[2]]()}{match[4]}", text)


def unfounded(text):
    """Numbers with a decimal point in the prose that stand in no block and are not constants: lines that hold them."""
    prose = BLOCK.sub("", text)
    prose = re.sub(r"```.*?```", "", prose, flags=re.DOTALL)
    prose = re.sub(r"^ {4}.*$", "", prose, flags=re.MULTILINE)  # indented code
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|<http[^>]*>", "", prose)
    found = []
    for line in prose.splitlines():
        numbers = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d\.)", line)
        found += [f"{number}: {line.strip()}" for number in numbers if number not in CONSTANTS]
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(prog="tables.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the blocks of README.md")
    action.add_argument("--check", action="store_true", help="compare them with the logs")
    parser.add_argument("--files", type=Path, nargs="+", default=READMES, help="what to write or check")
    args = parser.parse_args(argv)
    problems = []
    for file in args.files:
        before = file.read_text()
        after = written(before)
        if args.write:
            file.write_text(after)
        else:
            lines = before.splitlines(), after.splitlines()
            problems += difflib.unified_diff(*lines, str(file.name), "the logs", lineterm="")
        if file != RESULTS / "README.md":  # which names versions and machines
            problems += [f"a number that no log is behind: {line}" for line in unfounded(after)]
    print(*problems, sep="\n", end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
