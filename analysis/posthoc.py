"""Post-hoc EMA (Karras et al. 2024, arXiv 2312.02696): any averaging width, after training, from snapshots of a few.

Training keeps snapshots of some power-function averages. A power-function average of any other width at the end is,
to a good approximation, a linear combination of them; least squares finds it, with closed-form inner products.
"""

import zipfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state

from analysis.run_network import RestoredRun
from ema import power_gamma
from training.command import UserError
from training.files import write_json
from training.flags import load_config
from training.labels import RAW


def main(args):
    """Prints test accuracy against relative width; writes posthoc.json and posthoc.png into the run directory."""
    load_config(args.run_dir)  # says so where it is no run at all
    snapshots = Snapshots(args.run_dir)
    basis = args.basis or snapshots.widths
    unknown = sorted(set(basis) - set(snapshots.widths))
    if unknown:
        raise UserError(
            f"--basis {unknown[0]:g} was not tracked: choose from {', '.join(map(str, snapshots.widths))}", 2
        )
    widths = args.widths or [
        float(f"{width:.3g}") for width in np.geomspace(min(basis) / 2, min(2 * max(basis), 0.25), 10)
    ]
    results = {"basis": basis, "relative_errors": check_synthesis(snapshots, basis)}
    with RestoredRun(args.run_dir, args.data_dir) as run:
        results |= evaluate_widths(run, widths, snapshots.synthesise(widths, basis))
    write_json(run.path / "posthoc.json", results)
    draw_widths(run.path / "posthoc.png", results)


def check_synthesis(snapshots, basis):
    """Relative weight error of every tracked average that is not in the basis, made from it: width as text to error."""
    errors = {}
    checked = sorted(set(snapshots.widths) - set(basis))
    for width, made in zip(checked, snapshots.synthesise(checked, basis), strict=True):
        errors[f"{width:g}"] = error = relative_error(made, snapshots.tracked(width))
        print(f"width {width:g}: made from {basis} and tracked directly, relative weight error {error:.2%}")
    return errors


def evaluate_widths(run, widths, averages):
    """Accuracy of power-function averages with recomputed statistics.

    Args:
      run: RestoredRun.
      widths, averages: relative widths, and for each variable name to array.

    Returns:
      "raw/recomputed": test accuracy of the raw weights; "widths": a dict for each width, with test and, where images
      are held out, validation accuracy; then also "chosen": the width that is the best on the validation images.
    """

    def show(name):
        run.recompute()
        found = run.accuracies()
        held_out = f", validation {100 * found['validation']:.2f}%" if "validation" in found else ""
        print(f"{name}: {100 * found['test']:.2f}%{held_out}", flush=True)
        return {"accuracy": found.pop("test")} | found

    run.network.load(run.values(RAW))
    raw = show("raw weights, recomputed statistics")
    rows = []
    for width, weights in zip(widths, averages, strict=True):
        run.network.load(weights)
        rows.append({"width": width} | show(f"width {width:g}"))
    results = {"raw/recomputed": raw["accuracy"], "widths": rows}
    if "validation" not in raw:
        return results
    best = max(rows, key=lambda row: row["validation"])
    print(f"chosen on the validation images: width {best['width']:g}, test accuracy {100 * best['accuracy']:.2f}%")
    return results | {"chosen": best["width"]}


def draw_widths(path, results):
    widths = [100 * row["width"] for row in results["widths"]]
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(widths, [100 * row["accuracy"] for row in results["widths"]], marker="o", label="post-hoc EMA")
    axes.axhline(100 * results["raw/recomputed"], linestyle="--", color="grey", label="raw weights")
    for row in results["widths"]:
        if row["width"] == results.get("chosen"):
            chosen = 100 * row["width"], 100 * row["accuracy"]
            axes.plot(*chosen, marker="*", markersize=14, linestyle="", label="chosen on validation")
    axes.set_xlabel("relative width of the average (% of training)")
    axes.set_ylabel("test accuracy (%), recomputed statistics")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def inner_products(t_a, gamma_a, t_b, gamma_b):
    """Inner products of power-function profiles (Karras et al. 2024, eq. 151 and algorithm 3), in float64.

    The profile of exponent gamma at time t weighs time tau in [0, t] by (gamma + 1) tau^gamma / t^(gamma + 1).

    Args:
      t_a, gamma_a, t_b, gamma_b: arrays that broadcast.
    """
    ratio = t_a / t_b
    power = ratio ** np.where(t_a < t_b, gamma_b, -gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) * power / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def coefficients(times, gammas, target_time, target_gamma):
    """How much of each snapshot makes the target: least squares between the profiles.

    Args:
      times, gammas: [n], update number and exponent of each snapshot.
      target_time, target_gamma: of the average to make.

    Returns:
      [n] float64.
    """
    t, gamma = np.asarray(times, np.float64), np.asarray(gammas, np.float64)
    gram = inner_products(t[:, None], gamma[:, None], t[None, :], gamma[None, :])
    right = inner_products(t, gamma, np.float64(target_time), np.float64(target_gamma))
    return np.linalg.lstsq(gram, right, rcond=None)[0]


class Snapshots:
    """The snapshots of a run directory.

    Raises:
      UserError: there are none, or one is damaged.
    """

    def __init__(self, path):
        self.files = sorted((Path(path) / "snapshots").glob("step-*.npz"))
        if not self.files:
            raise UserError(f"{path} holds no snapshots: train with --ema_power 0.05 0.1 to keep them")
        last = _load(self.files[-1])
        self.widths = sorted({float(key.partition("/")[0]) for key in last if key != "updates"})
        self.final_time = last["updates"]

    def tracked(self, width):
        """The average of `width` that training itself kept, at the end: variable name to array."""
        return _of_width(_load(self.files[-1]), width)

    def synthesise(self, widths, basis):
        """Power-function averages of other widths at the end of the run.

        Args:
          widths: relative widths to make.
          basis: tracked widths to make them from.

        Returns:
          For each width, variable name to float64 array.
        """
        times = [_load(file)["updates"] for file in self.files]
        grid = [(time, power_gamma(width)) for time in times for width in basis]
        shares = [coefficients(*zip(*grid, strict=True), self.final_time, power_gamma(width)) for width in widths]
        results = [{} for _ in widths]
        for i, file in enumerate(self.files):  # one snapshot in memory at a time
            arrays = _load(file)
            for j, width in enumerate(basis):
                for name, value in _of_width(arrays, width).items():
                    for result, share in zip(results, shares, strict=True):
                        term = share[i * len(basis) + j] * value.astype(np.float64)
                        result[name] = result[name] + term if name in result else term
        return results


def relative_error(weights, reference):
    """||weights - reference|| / ||reference|| over all variables, each variable name to array."""
    squares = sum(float(np.sum((weights[name] - reference[name].astype(np.float64)) ** 2)) for name in reference)
    return (squares / sum(float(np.sum(value.astype(np.float64) ** 2)) for value in reference.values())) ** 0.5


def _load(file):
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = dict(arrays)
        found["updates"] = int(found["updates"])
        return found
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is damaged ({error}): delete it, the other snapshots may suffice") from None


def _of_width(arrays, width):
    prefix = f"{width:g}/"
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
