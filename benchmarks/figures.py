"""Figures of a side-by-side benchmark, from its JSON alone; None for what was not measured."""

from statistics import median

import paired

HABIT = "habit"
OURS, PEERS, CEILINGS = ("ours-float32", "ours-bfloat16"), "torch", "ceiling"


def rates(result, name):
    """Images per second of each turn of a contestant."""
    images = result["settings"]["steps"] * result["settings"]["batch_size"]
    return [images / seconds for seconds in result["contestants"][name]["seconds"]]


def fastest(result, names):
    """The contestant with the highest median rate of `names`, or of those that begin with that string, or None."""
    matches = (lambda name: name.startswith(names)) if isinstance(names, str) else names.__contains__
    found = [name for name in result["contestants"] if matches(name)]
    return max(found, key=lambda name: median(rates(result, name)), default=None)


def ours(result):
    """The name of train.py at its faster precision."""
    return fastest(result, OURS)


def ratio(result, name, reference):
    """Speed of `name` over that of `reference`: the median over rounds of the ratio within a round."""
    if not {name, reference} <= result["contestants"].keys():
        return None
    rounds = zip(rates(result, name), rates(result, reference), strict=True)
    return median(one / other for one, other in rounds)


def of_peer(result):
    """train.py over PyTorch's best, each at its fastest precision of this run."""
    return ratio(result, ours(result), fastest(result, PEERS))


def of_ceiling(result):
    return ratio(result, ours(result), fastest(result, CEILINGS))


def averages(result):
    """Number of decays, as text, to seconds of each round."""
    return result["averages"]["seconds"] if result["averages"] else {}


def averages_cost(seconds):
    """(what the EMA adds to the step, what each decay more does), paired.Estimate each, of `averages`."""
    first = paired.cost(seconds["1"], seconds["0"]) if {"0", "1"} <= seconds.keys() else None
    decays = {int(count): values for count, values in seconds.items() if count != "0"}
    return first, paired.cost_per_decay(decays) if len(decays) > 1 else None


def evaluation_share(result):
    """Evaluating raw and EMA on the test set over one epoch of training, in time."""
    if not result["evaluation"]:
        return None
    epoch = result["settings"]["train_size"] / median(rates(result, ours(result)))
    return median(result["evaluation"]) / epoch


def peak_gigabytes(result, name):
    return result["contestants"][name]["peak_bytes"] / 1e9 if name in result["contestants"] else None


def start_seconds(result):
    """Medians: "help" and "cifar10"; only what was measured."""
    startup = result["startup"]
    samples = {"help": startup.get("help"), "cifar10": [one["seconds"] for one in startup.get("cifar10", [])]}
    return {name: median(seconds) for name, seconds in samples.items() if seconds}


def start_parts(result):
    """Part of the start with CIFAR-10 to its median of seconds, in their order."""
    starts = result["startup"].get("cifar10", [])
    return {part: median(one["parts"][part] for one in starts) for part in (starts[0]["parts"] if starts else ())}
