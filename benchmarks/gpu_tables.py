"""The tables of a GPU's benchmark: speeds by batch size, and what else was measured."""

from statistics import median

import figures
import network
from layout import show, target
from layout import targets as as_table

# Rows of the table of speeds: beginning of the name, title, precision.
SPEEDS = (
    ("ours-bfloat16", "train.py", "bfloat16"),
    ("torch-compiled-bfloat16", "PyTorch, compiled", "bfloat16"),
    ("torch-eager-bfloat16", "PyTorch", "bfloat16"),
    ("ceiling-bfloat16", "convolutions alone", "bfloat16"),
    ("ours-float32", "train.py", "float32"),
    ("torch-compiled-float32", "PyTorch, compiled", "float32"),
    ("ceiling-float32", "convolutions alone", "float32"),
)
PEERS = ("torch-compiled-bfloat16", "torch-eager-bfloat16", "torch-compiled-float32")
PRECISIONS = ("bfloat16", "float32")


def parts(result):
    """Strings and (header, rows), in their order."""
    skipped = [f"{title} was left out: {why}" for title, why in result["skipped"].items()]
    return [heading(result), speeds(result), memory(result), targets(result), *skipped]


def device(result):
    """The name of the device that it was measured on."""
    found = [row["about"]["device"] for row in result["rows"].values() if "about" in row]
    return found[0] if found else "GPU, unnamed"


def heading(result):
    machine, versions = result["machine"], result["versions"]
    return "; ".join(
        [
            *(["a rehearsal with tiny sizes: no figure here means anything"] if result["rehearsal"] else []),
            device(result),
            f"{machine['cores']} cores of {machine['cpu']}",
            ", ".join(f"{library} {version}" for library, version in versions.items()),
        ]
    )


def batches(result):
    return sorted([*result["settings"]["batches"], *result["settings"]["other_batches"]])


def rate(result, name):
    """Images per second of a row: the median of its turns."""
    row = result["rows"].get(name)
    return row and median(turn["steps"] * row["batch"] / turn["seconds"] for turn in row["turns"])


def ratio(value, reference):
    return value / reference if value and reference else None


def speeds(result):
    header = ["images/s at batch", "precision", *map(str, batches(result))]
    rows = [
        [title, precision, *(show(rate(result, f"{name}-{batch}"), "{:,.0f}") for batch in batches(result))]
        for name, title, precision in SPEEDS
    ]
    return header, [row for row in rows if set(row[2:]) != {"-"}]


def memory(result):
    """What a person waits for and needs: compilation, and the memory of the GPU."""
    header = ["contestant", "batch", "seconds of the first step", "memory in use, GB", "memory held, GB"]
    rows = []
    for name, title, precision in SPEEDS:
        if name.startswith("ceiling"):
            continue
        for batch in batches(result):
            if row := result["rows"].get(f"{name}-{batch}"):
                used = [turn.get("device_bytes") for turn in row["turns"]]
                cells = (gigabytes(max(used) if all(used) else None), gigabytes(row["held_bytes"]))
                first = f"{row['about']['first_step_seconds']:.1f}"
                rows.append([f"{title}, {precision}", str(batch), first, *(show(cell, "{:.2f}") for cell in cells)])
    return header, rows


def gigabytes(count):
    return None if count is None else count / 1e9


def targets(result):
    return as_table([*ratios(result), *guide_batch(result), *costs(result)])


def ratios(result):
    """train.py beside PyTorch and the ceilings."""
    batches, size = result["settings"]["batches"], result["settings"]["matrix"]
    for batch in batches:
        speed = ratio(best(result, ["ours"], batch), best(result, PEERS, batch))
        yield target(f"train.py over PyTorch's best, batch {batch}", speed, "{:.2f}", ">=", 1.3)
    for batch in batches:
        share = ratio(best(result, ["ours"], batch), best(result, ["ceiling"], batch))
        yield target(f"share of the convolutions' ceiling, batch {batch}", share, "{:.1%}")
    for precision in PRECISIONS:
        yield target(f"matrix product of {size}, {precision}, TFLOP/s", matrix(result, precision), "{:.1f}")
    share = of_matrix(result, batches[-1])
    yield target(f"share of the bfloat16 matrix rate, batch {batches[-1]}", share, "{:.1%}", ">=", 0.4)


def guide_batch(result):
    """train.py with the guide's batch: the whole run, and what --steps_per_run and --xla do."""
    settings, rows = result["settings"], result["rows"]
    batch, steps = settings["batches"][0], settings["long_steps"]
    for how, minutes in (("extrapolated", extrapolated(result)), ("measured", measured(result))):
        yield target(f"minutes of {steps:,} steps of {batch}, {how}", minutes, "{:.2f}", "<=", 5)
    for count in settings["steps_per_run"]:
        speed = rate(result, f"steps_per_run-{count}")
        yield target(f"images/s at batch {batch}, --steps_per_run {count}", speed, "{:,.0f}")
    for name in rows:
        if "-xla-" in name:
            yield target(f"images/s at batch {batch}, --xla {name.rsplit('-', 1)[1]}", rate(result, name), "{:,.0f}")


def costs(result):
    """What the averages and the evaluation cost."""
    first, each = figures.averages_cost(result["rows"].get("averages", {}).get("seconds", {}))
    yield target("EMA adds to the step", first, "{:.1%}", "<=", 0.02)
    yield target("each extra decay adds", each, "{:.2%}", "<=", 0.01)
    images = f"{result['settings']['test_size']:,} test images"
    yield target(f"seconds of evaluating {images}, raw and EMA", evaluation(result), "{:.2f}")


def best(result, names, batch):
    """The highest rate at a batch size of the rows whose name begins with one of `names`, in any precision."""
    found = [rate(result, f"{name}-{batch}") for name, _, _ in SPEEDS if name.startswith(tuple(names))]
    return max(filter(None, found), default=None)


def matrix(result, precision):
    """TFLOP/s of the matrix product."""
    row = result["rows"].get(f"matrix-{precision}")
    return row and median(2 * row["size"] ** 3 * turn["steps"] / turn["seconds"] for turn in row["turns"]) / 1e12


def of_matrix(result, batch):
    """The convolutions' operations of train.py in a second over those of the bfloat16 matrix product."""
    flops = network.step_flops(result["settings"]["width"])
    speed, ceiling = rate(result, f"ours-bfloat16-{batch}"), matrix(result, "bfloat16")
    return ratio(speed and speed * flops / 1e12, ceiling)


def extrapolated(result):
    """Minutes of the long run at the speed of the short turns."""
    settings, speed = result["settings"], rate(result, f"ours-bfloat16-{result['settings']['batches'][0]}")
    return speed and settings["long_steps"] * settings["batches"][0] / speed / 60


def measured(result):
    return result["rows"]["long"]["seconds"] / 60 if "long" in result["rows"] else None


def evaluation(result):
    return median(result["rows"]["evaluation"]["seconds"]) if "evaluation" in result["rows"] else None
