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

from analysis import tables  # noqa: E402
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
}


# ---------------------------------------------------------------------------------------------------------------
# Reading


def rows(run):
    """The rows of metrics.jsonl of a run: epoch to row."""
    lines = (RESULTS / run / "metrics.jsonl").read_text().splitlines()
    return {row["epoch"]: row for row in map(json.loads, lines)}


def seeds(experiment):
    """The runs of an experiment that are there, by seed."""
    return {int(path.name.removeprefix("seed-")): f"{experiment}/{path.name}" for path in folders(experiment, "seed-*")}


def folders(experiment, pattern):
    return sorted(path for path in (RESULTS / experiment).glob(pattern) if (path / "metrics.jsonl").exists())


def accuracy(runs, label, epoch, key="classifiers"):
    """Accuracy in % of a classifier after an epoch, [S]."""
    return np.array([100 * rows(run)[epoch][key][label] for run in runs.values()])


def last_epoch(runs):
    return min(max(rows(run)) for run in runs.values())


def decays(runs):
    """The decays of the runs, shortest horizon first."""
    labels = map(Label.parse, next(iter(rows(next(iter(runs.values()))).values()))["classifiers"])
    return sorted({label.decay for label in labels if label.decay}, key=float)


def horizon(decay, run):
    """The horizon of a decay in epochs."""
    epoch, row = next(iter(rows(run).items()))
    return 1 / (1 - float(decay)) / (row["step"] / epoch)


# ---------------------------------------------------------------------------------------------------------------
# Writing


def markdown(header, body, left=1):
    """A Markdown table; the first `left` columns hold words."""
    lines = [header, ["---"] * left + ["---:"] * (len(header) - left), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def estimate(values, sign=""):
    """Mean, and interval where there are several seeds, as "88.61 [88.10, 89.12]"."""
    return " ".join(cell for cell in tables.estimate(*mean_interval(values), sign) if cell != "-")


def over(experiment):
    """ "3 seeds (0, 1, 2)"."""
    found = list(seeds(experiment))
    return f"{len(found)} seed{'s' if len(found) > 1 else ''} ({', '.join(map(str, found))})"


BASELINE, EMA = "raw/recomputed", "ema/0.998/recomputed"


# ---------------------------------------------------------------------------------------------------------------
# Blocks


def answer():
    """What `python train.py` alone gives, and what several seeds of a narrower network add to that."""
    last = rows("guide/seed-0")[20]
    table = {row["label"]: row for row in json.loads((RESULTS / "guide/seed-0/table.json").read_text())}
    raw, averaged = table["raw"], table["ema/0.998/raw"]
    gain, half = paired_gain(averaged["fixed"], averaged["broken"], images=10_000)
    assert abs(gain - 100 * (last["ema_accuracy"] - last["raw_accuracy"])) < 1e-6
    first = (
        f"**`python train.py` and nothing else: after 20 epochs the averaged weights classify "
        f"{100 * averaged['accuracy']:.2f}% of the test images, the raw weights {100 * raw['accuracy']:.2f}%: "
        f"{gain:+.2f} [{gain - half:+.2f}, {gain + half:+.2f}] points** (one seed, 95% interval over the test images). "
    )
    return first + over_seeds()


def paired_gain(fixed, broken, images):
    """Difference of two accuracies on the same images in points, and half the width of its 95% interval (Wald's).

    Args:
      fixed, broken: how many images one classifier alone has right, and the other alone.
    """
    gain = (fixed - broken) / images
    variance = ((fixed + broken) / images - gain**2) / images
    return 100 * gain, 100 * 1.96 * variance**0.5


def over_seeds():
    runs, cooled = seeds("gain"), seeds("cooldown")
    epoch = last_epoch(runs)
    plain, averaged = accuracy(runs, BASELINE, epoch), accuracy(runs, EMA, epoch)
    guide = accuracy(runs, "ema/0.998/raw", epoch) - accuracy(runs, "raw", epoch)
    text = (
        f"At half the width, over {over('gain')} and with batch statistics recomputed for both, it is "
        f"{averaged.mean():.1f}% against {plain.mean():.1f}%: **{estimate(averaged - plain, '+')} points** (95% "
        f"interval over seeds); with the raw network's own statistics, as in the guide, {estimate(guide, '+')}."
    )
    both = {seed: run for seed, run in runs.items() if seed in cooled}
    annealed = accuracy(cooled, BASELINE, epoch)
    against = annealed - accuracy(both, EMA, epoch)
    together = accuracy(cooled, EMA, epoch) - annealed
    cooldown = json.loads((RESULTS / cooled[0] / "config.json").read_text())["flags"]["lr_cooldown"]
    return (
        f"{text} A learning rate that falls to 0 over the last {cooldown} epochs gives the raw weights "
        f"{annealed.mean():.1f}%: **{estimate(against, '+')} points over EMA at the constant rate**; EMA on top of it "
        f"adds {estimate(together, '+')}.\n"
    )


def log():
    """Some lines of the log of `python train.py`."""
    found = rows("guide/seed-0")
    label = Label("ema", "0.998", "raw")
    lines = [console.header(("raw", label))]
    for epoch in (1, 2, 3, 4, 5, 10, 15, 20):
        lines += console.evaluation(found[epoch], label)
    return "".join(f"    {line}\n" for line in lines)


def gain():
    runs = seeds("gain")
    epoch = last_epoch(runs)
    body = []
    for decay in decays(runs):
        cells = [f"`{decay}`", f"{horizon(decay, runs[0]):.2g}"]
        for statistics in ("recomputed", "raw"):
            label = Label("ema", decay, statistics)
            values = accuracy(runs, str(label), epoch)
            cells += [f"{values.mean():.2f}", estimate(values - accuracy(runs, str(label.baseline), epoch), "+")]
        body.append(cells)
    raw = [f"{accuracy(runs, label, epoch).mean():.2f}" for label in (BASELINE, "raw")]
    body.insert(0, ["raw weights", "-", raw[0], "-", raw[1], "-"])
    header = ["decay", "horizon, epochs", "recomputed statistics, %", "gain", "raw network's statistics, %", "gain"]
    return markdown(header, body)


def horizons():
    """By epoch: the decay that is the best on the images held out, and what it gives on the test set."""
    runs = seeds("gain")
    body = []
    for epoch in sorted(set.intersection(*(set(rows(run)) for run in runs.values()))):
        labels = {decay: str(Label("ema", decay, "recomputed")) for decay in decays(runs)}
        best = max(labels, key=lambda decay: accuracy(runs, labels[decay], epoch, "validation").mean())
        plain, guides, chosen = (accuracy(runs, label, epoch) for label in (BASELINE, EMA, labels[best]))
        share = horizon(best, runs[0])
        cells = [f"{plain.mean():.2f}", f"{guides.mean():.2f}", f"`{best}`, {share:.2g} epochs", f"{chosen.mean():.2f}"]
        body.append([str(epoch), *cells, estimate(chosen - plain, "+")])
    return markdown(["epoch", "raw, %", "EMA 0.998, %", "chosen on validation", "EMA chosen, %", "its gain"], body)


def saved():
    """How many epochs of training EMA saves: where its curve has the last accuracy of the raw weights."""
    runs = seeds("gain")
    epochs = sorted(set.intersection(*(set(rows(run)) for run in runs.values())))
    found = []
    for run in runs.values():
        one = {0: run}
        curve = [accuracy(one, EMA, epoch)[0] for epoch in epochs]
        found.append(float(np.interp(accuracy(one, BASELINE, epochs[-1])[0], curve, epochs)))
    return (
        f"EMA has after {estimate(np.array(found))} epochs what the raw weights have after {epochs[-1]} (interpolated "
        f"between evaluations every {epochs[1] - epochs[0]} epochs).\n"
    )


def annealing():
    (table,) = json.loads((RESULTS / "gain/report/report.json").read_text())["annealing"]
    return f"{table['caption']}:\n\n{markdown(table['header'], table['rows'])}"


def beyond():
    groups = json.loads((RESULTS / "gain/report/report.json").read_text())["groups"]
    text = []
    for group, name in zip(groups, ("Constant rate", "Annealed"), strict=False):
        table = next(table for table in group["tables"] if table["caption"].startswith("Beyond"))
        body = [row for row in table["rows"] if not row[0].startswith("accuracy")]
        text.append(f"{name}. {table['caption']}:\n\n{markdown(table['header'], body)}")
    return "\n".join(text)


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
    noisy = seeds("noise")
    clean = {seed: run for seed, run in seeds("gain").items() if seed in noisy}
    epoch = min(last_epoch(noisy), last_epoch(clean))
    body = []
    for name, runs in (("clean labels", clean), ("40% wrong", noisy)):
        labels = {decay: str(Label("ema", decay, "recomputed")) for decay in decays(runs)}
        best = max(labels, key=lambda decay: accuracy(runs, labels[decay], epoch, "validation").mean())
        plain, guides, chosen = (accuracy(runs, label, epoch) for label in (BASELINE, EMA, labels[best]))
        body.append([name, f"{plain.mean():.2f}", f"{guides.mean():.2f}", estimate(guides - plain, "+"), f"`{best}`"])
        body[-1] += [f"{chosen.mean():.2f}", estimate(chosen - plain, "+")]
    header = [f"after epoch {epoch}, {over('noise')}", "raw/recomputed, %", "EMA 0.998, %", "gain", "chosen", "its %"]
    return markdown([*header, "its gain"], body)


def starts():
    """Every start and policy by epoch; the raw weights of a seed are the same whatever averages are tracked."""
    found = {}
    for folder in folders("starts", "*"):
        flags = json.loads((folder / "config.json").read_text())["flags"]
        for epoch, row in rows(f"starts/{folder.name}").items():
            for label, value in row["classifiers"].items():
                start = flags["ema_start"] if label.startswith("ema/") else "-"
                found.setdefault((flags["seed"], start, label), {})[epoch] = value
    body = [
        [str(seed), start, f"`{label}`", *(f"{100 * values[epoch]:.2f}" for epoch in sorted(values))]
        for (seed, start, label), values in sorted(
            found.items(), key=lambda item: (item[0][0], item[0][1] != "-", item[0][1])
        )
    ]
    epochs = [f"epoch {epoch}" for epoch in sorted(next(iter(found.values())))]
    return markdown(["seed", "`--ema_start`", "classifier", *epochs], body, left=3)


def first_epochs():
    """The first epochs in short: mean over seeds, the guide's start and statistics beside those that mend them."""
    chosen = [("-", "raw"), ("-", BASELINE)]
    chosen += [(start, f"ema/0.998/{policy}") for start in ("initial", "warmup") for policy in ("raw", "recomputed")]
    body = []
    for start, label in chosen:
        pattern = "*" if start == "-" else f"{start}-*"
        by_seed = {}
        for folder in folders("starts", pattern):
            by_seed.setdefault(folder.name[-1], rows(f"starts/{folder.name}"))
        values = [[100 * row["classifiers"][label] for row in found.values()] for found in by_seed.values()]
        means = (f"{value:.2f}" for value in np.mean(values, axis=0))
        body.append([start, f"`{label}`", str(len(values)), *means])
    epochs = [f"epoch {epoch}" for epoch in next(iter(by_seed.values()))]
    return markdown(["`--ema_start`", "classifier", "seeds", *epochs], body, left=2)


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
        horizons,
        saved,
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
