"""The tables of a side-by-side benchmark: a heading, what was compared, what it came to."""

from statistics import median

import figures
from layout import show, target
from layout import targets as as_table


def parts(result):
    """Strings and (header, rows), in their order."""
    return [heading(result), speeds(result), targets(result), *notes(result)]


def heading(result):
    settings, machine, versions = result["settings"], result["machine"], result["versions"]
    about = result["contestants"].get(figures.ours(result), {}).get("about", {})
    described = [
        about.get("device") or f"CPU, {machine['cpu']}, {machine['cores']} cores",
        *(f"{about[key]:,} parameters" for key in ("parameters",) if key in about),
        f"batch {settings['batch_size']}, {settings['rounds']} rounds of {settings['steps']} steps",
        ", ".join(f"{library} {version}" for library, version in versions.items()),
    ]
    return "; ".join(described)


def speeds(result):
    header = ["contestant", "precision", "images/s", "min", "max", "of train.py", "of ceiling", "memory GB"]
    ours, ceiling = figures.ours(result), figures.fastest(result, figures.CEILINGS)
    rows = []
    for name, contestant in result["contestants"].items():
        speed = figures.rates(result, name)
        rows.append(
            [
                contestant["title"],
                contestant["about"]["precision"],
                *(f"{value:.1f}" for value in (median(speed), min(speed), max(speed))),
                show(figures.ratio(result, name, ours), "{:.3f}"),
                show(figures.ratio(result, name, ceiling), "{:.1%}"),
                show(figures.peak_gigabytes(result, name), "{:.2f}"),
            ]
        )
    return header, rows


def targets(result):
    """What the benchmark is there to show: a measured value, and the bound it is held to."""
    ours, peer = figures.ours(result), figures.fastest(result, figures.PEERS)
    title = {name: contestant["title"] for name, contestant in result["contestants"].items()}
    first, each = figures.averages_cost(figures.averages(result))
    sizes = "{test_size:,} test images, raw and EMA, over an epoch of {train_size:,}".format(**result["settings"])
    start = figures.start_seconds(result)
    own = title.get(ours, "train.py")
    rows = [
        target(
            f"{own} over {title.get(peer, 'PyTorch')}, each at its best", figures.of_peer(result), "{:.2f}", ">=", 1.05
        ),
        target(f"{own} over the TF 1.x habit", figures.ratio(result, ours, figures.HABIT), "{:.2f}", ">=", 1.9),
        target("share of the convolutions' ceiling", figures.of_ceiling(result), "{:.1%}", ">=", 0.87),
        target("EMA adds to the step", first, "{:.1%}", "<=", 0.02),
        target("each extra decay adds", each, "{:.2%}", "<=", 0.01),
        target(sizes, figures.evaluation_share(result), "{:.1%}", "<=", 0.12),
        target("seconds of train.py --help", start.get("help"), "{:.2f}", "<=", 0.2),
        target("seconds from the start to the first step done, CIFAR-10", start.get("cifar10"), "{:.1f}", "<=", 8),
        target("peak memory of training and evaluation, GB", figures.peak_gigabytes(result, ours), "{:.2f}", "<=", 2.5),
    ]
    return as_table(rows)


def notes(result):
    """Sentences below the tables."""
    lines = []
    if found := figures.start_parts(result):
        listed = ", ".join(f"{part} {seconds:.2f}" for part, seconds in found.items())
        chosen = " and ".join(sorted({one["precision"] for one in result["startup"]["cifar10"]}))
        lines.append(f"Seconds of the parts of the start with CIFAR-10: {listed}. --precision auto took {chosen}.")
    if why := result["startup"].get("skipped"):
        lines.append(f"The start with CIFAR-10 was left out: {why}")
    return lines + [f"{title} was left out: {why}" for title, why in result["skipped"].items()]
