"""Averaging against annealing: EMA at a constant learning rate beside a rate that cools down, seed by seed."""

import itertools

from analysis.statistics import mean_interval
from analysis.tables import Table, estimate


def annealing_tables(groups):
    """One table for each pair of groups that differ by --lr_cooldown alone and share a seed and an epoch.

    Its rows are the baseline and the primary EMA at the constant rate and after the cooldown, at the last epoch of the
    cooled runs; every difference is paired by seed.

    Args:
      groups: of analysis.groups.Group.

    Returns:
      List of analysis.tables.Table.
    """
    pairs = [pair for pair in itertools.permutations(groups, 2) if differ_by_cooldown(*pair)]
    return [table for constant, cooled in pairs if (table := compare(constant, cooled))]


def differ_by_cooldown(constant, cooled):
    shapes = [
        {flag: value for flag, value in group.shape.items() if flag not in ("lr_cooldown", "epochs")}
        for group in (constant, cooled)
    ]
    return shapes[0] == shapes[1] and constant.shape["lr_cooldown"] == "0" != cooled.shape["lr_cooldown"]


def compare(constant, cooled):
    """The table of one pair; None where they share no seed, or the constant one was not evaluated at the last epoch."""
    epoch = cooled.epochs[-1]
    places = [{run.flags.seed: index for index, run in enumerate(group.runs)} for group in (constant, cooled)]
    seeds = sorted(places[0].keys() & places[1].keys())
    if not seeds or epoch not in constant.epochs:
        return None
    column = constant.epochs.index(epoch)
    chosen = [[place[seed] for seed in seeds] for place in places]
    accuracies = {
        f"constant rate, {constant.against}": constant.baseline[chosen[0], column],
        f"constant rate, {constant.name}": constant.ema[chosen[0], column],
        f"annealed, {cooled.against}": cooled.baseline[chosen[1], -1],
        f"annealed, {cooled.name}": cooled.ema[chosen[1], -1],
    }
    plain, averaged, *_ = accuracies.values()
    rows = []
    for name, accuracy in accuracies.items():
        over = [
            ["-", "-"] if accuracy is reference else estimate(*mean_interval(100 * (accuracy - reference)), "+")
            for reference in (plain, averaged)
        ]
        rows.append([name, *estimate(*mean_interval(100 * accuracy)), *over[0], *over[1]])
    first, second = list(accuracies)[:2]
    header = ["", "accuracy, %", "95% interval", f"over {first}", "95% interval", f"over {second}", "95% interval"]
    listed = ", ".join(map(str, seeds))
    caption = (
        f"Averaging and annealing after epoch {epoch}, the last {cooled.shape['lr_cooldown']} of them cooled down; "
        f"paired over {len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({listed})"
    )
    return Table(caption, header, rows)
