"""Post-hoc EMA (Karras et al. 2024, arXiv 2312.02696): averages of any length, made after training from snapshots.

Training saves snapshots of some power-function averages. A power-function average with any other relative standard
deviation (std) is approximately a linear combination of them. Least squares finds it, with closed-form inner products.
"""

import numpy as np

from analysis.formatting import print_wrapped
from analysis.plots import add_legend, new_axes, render_figure
from analysis.restored_run import RestoredRun
from analysis.run_files import read_errors, require_single_run
from ema import power_gamma
from training.cli import UserError, display_path, resume_command
from training.files import open_arrays, write_json, write_whole
from training.flags import load_flags
from training.labels import RAW, RAW_RECOMPUTED, choose
from training.run_directory import list_snapshots

MAX_RESIDUAL = 0.05  # relative to the norm of the profile; above it the average has another shape


def main(args):
    """Prints test accuracy against std; writes posthoc.json and posthoc.png into the run directory."""
    snapshots = Snapshots(require_single_run(args.run_dir))
    basis = args.basis or snapshots.stds
    if unknown := sorted(set(basis) - set(snapshots.stds)):
        raise UserError(f"--basis {unknown[0]:g} was not tracked: choose from {', '.join(map(str, snapshots.stds))}", 2)
    grid = np.geomspace(min(basis) / 2, min(2 * max(basis), 0.25), 10)
    stds = args.stds or [float(f"{std:.3g}") for std in grid]
    evaluate(RestoredRun(args.run_dir, args.data_dir), snapshots, basis, stds)


def evaluate(run, snapshots, basis, stds):
    """Evaluates averages with `stds`, made from the tracked ones with stds `basis`; batch statistics are recomputed."""
    raw_step = run.state["step"]
    origin = f"made from stds {', '.join(map(str, basis))} in {len(snapshots.files)} snapshots"
    print_wrapped(f"{display_path(run.path)}: averages {run.describe_step(snapshots.step)}, {origin}")
    if snapshots.step != raw_step:
        print_wrapped(f"warning: do not compare them with the raw weights, which are those {run.describe_step()}")
    errors = check_synthesis(snapshots, basis)
    raw = measure(run, run.values(RAW), f"{RAW_RECOMPUTED.display_name}, after step {raw_step}")
    rows = []
    for std, weights, residual in zip(stds, *snapshots.synthesize(stds, basis), strict=True):
        warning = f" (warning: over {MAX_RESIDUAL:.0%})" if residual > MAX_RESIDUAL else ""
        accuracies = measure(run, weights, f"std {std:g}", f", residual {residual:.2%}{warning}")
        rows.append({"std": std, **accuracies, "residual": residual})
    results = {"basis": basis, "step": snapshots.step, "raw_step": raw_step, "relative_errors": errors}
    results |= {"raw/recomputed": raw["accuracy"], "stds": rows, "chosen": choose_std(rows)}
    write_json(run.path / "posthoc.json", results)
    if png := render_figure("posthoc.png", lambda: draw_stds(results), "png"):
        write_whole(run.path / "posthoc.png", *png)


def measure(run, weights, name, note=""):
    """Prints and returns the accuracies of weights with recomputed statistics: "accuracy" and perhaps "validation"."""
    run.network.load(weights)
    run.recompute()
    accuracies = run.accuracies()
    validation = f", validation {100 * accuracies['validation']:.2f}%" if "validation" in accuracies else ""
    print(f"{name}: {100 * accuracies['test']:.2f}%{validation}{note}", flush=True)
    return {"accuracy": accuracies.pop("test")} | accuracies


def choose_std(rows):
    """Prints and returns the std with the best validation accuracy and a small residual; None if there is none."""
    valid = {f"std {row['std']:g}": row for row in rows if row["residual"] <= MAX_RESIDUAL}
    name, reason = choose(None, [{name: row["validation"] for name, row in valid.items() if "validation" in row}])
    chosen = "none: a choice needs --validation_size and a small residual"
    if name:
        chosen = f"{name}, {reason}, test accuracy {100 * valid[name]['accuracy']:.2f}%"
    print_wrapped(
        f"chosen: {chosen}. residual: distance between the requested averaging profile and "
        f"the one that the snapshots can build; above {MAX_RESIDUAL:.0%} it is another average. --stds tests others."
    )
    return valid[name]["std"] if name else None


def check_synthesis(snapshots, basis):
    """Prints and returns {std as text: relative weight error} of tracked averages outside the basis, made from it."""
    errors = {}
    stds = sorted(set(snapshots.stds) - set(basis))
    for std, weights in zip(stds, snapshots.synthesize(stds, basis)[0], strict=True):
        errors[f"{std:g}"] = error = relative_error(weights, snapshots.final[std])
        print(f"std {std:g}, also tracked by training: relative weight error {error:.2%}")
    return errors


def relative_error(weights, reference):
    """Returns ||weights - reference|| / ||reference|| over all variables; both are {variable name: array}."""

    def flat(values):
        return np.concatenate([values[name].ravel().astype(np.float64) for name in reference])

    return float(np.linalg.norm(flat(weights) - flat(reference)) / np.linalg.norm(flat(reference)))


def draw_stds(results):
    """Draws test accuracy against std; crosses mark averages that the snapshots cannot build."""
    axes = new_axes("relative std of the average (% of training)", "test accuracy (%), recomputed statistics")
    for style, label, condition in (
        ("o-", "post-hoc EMA", lambda row: row["residual"] <= MAX_RESIDUAL),
        ("x", "residual over 5%", lambda row: row["residual"] > MAX_RESIDUAL),
        ("r*", "chosen", lambda row: row["std"] == results["chosen"]),
    ):
        if points := [(100 * row["std"], 100 * row["accuracy"]) for row in results["stds"] if condition(row)]:
            axes.plot(*zip(*points, strict=True), style, label=label)
    raw = f"raw weights after step {results['raw_step']}"
    axes.axhline(100 * results["raw/recomputed"], linestyle="--", color="grey", label=raw)
    return add_legend(axes)


# ---------------------------------------------------------------------------------------------------------------
# Synthesis


def inner_products(t_a, gamma_a, t_b, gamma_b):
    """Returns inner products of power-function profiles (Karras et al. 2024, eq. 151 and algorithm 3), in float64.

    The profile of exponent gamma at time t weights time tau in [0, t] by (gamma + 1) tau^gamma / t^(gamma + 1).

    The arguments are arrays that broadcast.
    """
    ratio = t_a / t_b
    power = ratio ** np.where(t_a < t_b, gamma_b, -gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) * power / ((gamma_a + gamma_b + 1) * np.maximum(t_a, t_b))


def coefficients(times, gammas, target_time, target_gamma):
    """Fits profiles with update numbers `times` [n] and exponents `gammas` [n] to a target profile by least squares.

    Returns:
      ([n] float64 that sum to 1, as the weights of an average do; the norm of the difference between the combined and
      the target profile, relative to the norm of the target profile).
    """
    t, gamma = np.asarray(times, np.float64), np.asarray(gammas, np.float64)
    target = np.float64(target_time), np.float64(target_gamma)
    gram = inner_products(t[:, None], gamma[:, None], t[None, :], gamma[None, :])
    right = inner_products(t, gamma, *target)
    shares = np.linalg.lstsq(gram, right, rcond=None)[0]
    shares /= shares.sum()
    square = inner_products(*target, *target)
    difference = shares @ gram @ shares - 2 * shares @ right + square
    return shares, float(np.sqrt(max(difference, 0) / square))  # rounding may make it negative


class Snapshots:
    """The snapshots of a run directory; UserError if there are none, or one is corrupt."""

    def __init__(self, path):
        self.files = list_snapshots(path)
        if not self.files:
            hint = f"continue it with {resume_command(path)}, or restore them from a copy"
            if not load_flags(path).ema_power:
                hint = "train with --ema_power 0.05 0.1"
            raise UserError(f"{path} has no snapshots: {hint}")
        self.step = int(self.files[-1].stem.removeprefix("step-"))
        self.final_time, self.final = read_snapshot(self.files[-1])
        self.stds = sorted(self.final)

    def synthesize(self, stds, basis):
        """Makes averages with `stds` at the last snapshot from the tracked averages with stds `basis`.

        Returns for each std {variable name: float64 array}, and for each std the residual of `coefficients`.
        """
        times = [read_snapshot(file)[0] for file in self.files]
        grid = [(time, power_gamma(std)) for time in times for std in basis]
        solutions = [coefficients(*zip(*grid, strict=True), self.final_time, power_gamma(std)) for std in stds]
        averages = [{} for _ in stds]
        for i, file in enumerate(self.files):  # one snapshot in memory at a time
            _, snapshot = read_snapshot(file)
            for j, std in enumerate(basis):
                for name, value in snapshot[std].items():
                    for average, (shares, _) in zip(averages, solutions, strict=True):
                        average[name] = average.get(name, 0) + shares[i * len(basis) + j] * value.astype(np.float64)
        return averages, [residual for _, residual in solutions]


def read_snapshot(file):
    """Returns the update number and {std: {variable name: array}} of a snapshot."""
    averages = {}
    with read_errors(file, ": delete it, the other snapshots may suffice"), open_arrays(file) as arrays:
        updates = int(arrays["updates"])
        for key in set(arrays.files) - {"updates"}:
            std, _, name = key.partition("/")
            averages.setdefault(float(std), {})[name] = arrays[key]
        if updates < 1 or not averages:
            raise ValueError("it has no averages")
    return updates, averages
