"""The tables of a benchmark, from its JSON alone: as text for the terminal, as Markdown for the README."""

from statistics import median

OURS, CEILING, HABIT = "ours", "ceiling", "habit"


def text(result):
    parts = [heading(result), fixed_width(*speeds(result)), fixed_width(*targets(result)), *skipped(result)]
    return "\n\n".join(parts)


def markdown(result):
    parts = [heading(result), as_markdown(*speeds(result)), as_markdown(*targets(result)), *skipped(result)]
    return "\n\n".join(parts)


# ---------------------------------------------------------------------------------------------------------------
# Figures


def rates(result, name):
    """Images per second of each turn of a contestant."""
    images = result["settings"]["steps"] * result["settings"]["batch_size"]
    return [images / seconds for seconds in result["contestants"][name]["seconds"]]


def ratio(result, name, reference):
    """Speed of `name` over that of `reference`: the median over rounds of the ratio within a round, or None."""
    if not {name, reference} <= result["contestants"].keys():
        return None
    rounds = zip(rates(result, name), rates(result, reference), strict=True)
    return median(one / other for one, other in rounds)


def extra_time(result, name, reference):
    """By how much a step of `name` is longer than one of `reference`, as a fraction of the latter, or None."""
    speed = ratio(result, reference, name)
    return None if speed is None else speed - 1


def fastest_peer(result):
    """The name of the PyTorch contestant with the highest median rate, or None."""
    peers = [name for name in result["contestants"] if name.startswith("torch")]
    return max(peers, key=lambda name: median(rates(result, name)), default=None)


def per_extra_decay(result):
    """What a second and a third decay add to the step, each, as a fraction of a step with one."""
    extra = extra_time(result, "ours-3-decays", OURS)
    return None if extra is None else extra / 2


def evaluation_share(result):
    """Evaluating raw and EMA on the test set over one epoch of training, in time."""
    if not result["evaluation"]:
        return None
    epoch = result["settings"]["train_size"] / median(rates(result, OURS))
    return median(result["evaluation"]) / epoch


def peak_gigabytes(result, name):
    return result["contestants"][name]["peak_bytes"] / 1e9 if name in result["contestants"] else None


# ---------------------------------------------------------------------------------------------------------------
# Tables: a header and rows of strings


def heading(result):
    settings, machine, versions = result["settings"], result["machine"], result["versions"]
    about = result["contestants"].get(OURS, {}).get("about", {})
    parts = [
        about.get("device") or f"{machine['cpu']}, {machine['cores']} cores",
        *(f"{about[key]:,} parameters" for key in ("parameters",) if key in about),
        f"batch {settings['batch_size']}, {settings['rounds']} rounds of {settings['steps']} steps",
        ", ".join(f"{library} {version}" for library, version in versions.items()),
    ]
    return "; ".join(parts)


def speeds(result):
    header = ["contestant", "precision", "images/s", "min", "max", "of train.py", "of ceiling", "memory GB"]
    rows = []
    for name, contestant in result["contestants"].items():
        speed = rates(result, name)
        rows.append(
            [
                contestant["title"],
                contestant["about"]["precision"],
                *(f"{value:.1f}" for value in (median(speed), min(speed), max(speed))),
                show(ratio(result, name, OURS), "{:.3f}"),
                show(ratio(result, name, CEILING), "{:.1%}"),
                show(peak_gigabytes(result, name), "{:.2f}"),
            ]
        )
    return header, rows


def targets(result):
    """What the benchmark is there to show: a measured value, and the bound it is held to."""
    peer = fastest_peer(result)
    peer_title = result["contestants"][peer]["title"] if peer else "PyTorch"
    sizes = "{test_size:,} test images, raw and EMA, over an epoch of {train_size:,}".format(**result["settings"])
    start = {name: median(samples) for name, samples in result["startup"].items()}
    rows = [
        (f"train.py over {peer_title}, the fastest", ratio(result, OURS, peer), "{:.2f}", ">=", 1.1),
        ("train.py over the TF 1.x habit", ratio(result, OURS, HABIT), "{:.2f}", ">=", 1.9),
        ("share of the convolutions' ceiling", ratio(result, OURS, CEILING), "{:.1%}", ">=", 0.8),
        ("EMA adds to the step", extra_time(result, OURS, "ours-no-ema"), "{:.1%}", "<=", 0.02),
        ("each extra decay adds", per_extra_decay(result), "{:.1%}", "<=", 0.01),
        (sizes, evaluation_share(result), "{:.1%}", "<=", 0.12),
        ("seconds of train.py --help", start.get("help"), "{:.2f}", "<=", 0.5),
        ("seconds from the start to the first step done", start.get("first_step"), "{:.1f}", "<=", 8),
        ("peak memory of training and evaluation, GB", peak_gigabytes(result, OURS), "{:.2f}", "<=", 2.5),
    ]
    return ["target", "measured", "bound", "met"], [
        [name, show(value, form), f"{sign} {form.format(bound)}", verdict(value, sign, bound)]
        for name, value, form, sign, bound in rows
    ]


def skipped(result):
    return [f"{title} was left out: {sentence}" for title, sentence in result["skipped"].items()]


def verdict(value, sign, bound):
    if value is None:
        return "-"
    return "yes" if (value >= bound if sign == ">=" else value <= bound) else "no"


def show(value, form):
    return "-" if value is None else form.format(value)


# ---------------------------------------------------------------------------------------------------------------
# Layout


def fixed_width(header, rows):
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells):
        first, *others = (
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others])

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def as_markdown(header, rows):
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
