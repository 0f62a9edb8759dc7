"""Post-hoc EMA (Karras et al. 2024, arXiv 2312.02696): any averaging width, after training, from snapshots of a few.

Training keeps snapshots of some power-function averages. A power-function average of any other width at the end is,
to a good approximation, a linear combination of them; least squares finds it, with closed-form inner products.
"""

import numpy as np

from analysis.evaluation_table import print_wrapped
from analysis.plots import add_legend, new_axes, render_figure
from analysis.restored_run import RestoredRun
from analysis.run_files import read_errors, require_single_run
from ema import power_gamma
from training.cli import UserError, display_path, resume_command
from training.files import open_arrays, write_json, write_whole
from training.flags import load_flags
from training.labels import RAW, RAW_RECOMPUTED, choose
from training.run_directory import list_snapshots

DELETE = "delete it, the other snapshots may suffice"
MAX_RESIDUAL = 0.05  # of the norm of a profile: what is further from it is an average of another shape


def main(args):
    """Prints test accuracy against relative width; writes posthoc.json and posthoc.png into the run directory."""
    snapshots = Snapshots(require_single_run(args.run_dir))
    basis = args.basis or snapshots.widths
    if unknown := sorted(set(basis) - set(snapshots.widths)):
        raise UserError(
            f"--basis {unknown[0]:g} was not tracked: choose from {', '.join(map(str, snapshots.widths))}", 2
        )
    grid = np.geomspace(min(basis) / 2, min(2 * max(basis), 0.25), 10)
    widths = args.widths or [float(f"{width:.3g}") for width in grid]
    evaluate(RestoredRun(args.run_dir, args.data_dir), snapshots, basis, widths)


def evaluate(run, snapshots, basis, widths):
    """Evaluates averages of relative widths `widths`, made from those of widths `basis`, with recomputed statistics."""
    step, raw_step, count = snapshots.step, run.state["step"], len(snapshots.files)
    weights, widths_of_run = run.values(RAW), sorted(run.flags.ema_power or [])
    fitting = (np.shape(weights.get(name.partition("/")[2])) == shape for name, shape in snapshots.shapes.items())
    if snapshots.widths != widths_of_run or not all(fitting):
        raise UserError(f"{snapshots.files[-1]} is not of this run: {DELETE}")
    print_wrapped(
        f"{display_path(run.path)}: averages {run.after(step)}, made from {', '.join(map(str, basis))} in {count} snapshots"
    )
    if step != raw_step:
        print_wrapped(
            f"warning: the raw weights are those {run.after()}, to be compared with no average of step {step}"
        )
    errors = check_synthesis(snapshots, basis)
    run.network.load(run.values(RAW))
    raw = show_accuracies(run, f"{RAW_RECOMPUTED.display_name}, after step {raw_step}")
    rows = []
    for width, weights, residual in zip(widths, *snapshots.synthesise(widths, basis), strict=True):
        run.network.load(weights)
        warning = f" (warning: over {MAX_RESIDUAL:.0%})" if residual > MAX_RESIDUAL else ""
        found = show_accuracies(run, f"width {width:g}", f", residual {residual:.2%}{warning}")
        rows.append({"width": width, **found, "residual": residual})
    results = {"basis": basis, "step": step, "raw_step": raw_step, "relative_errors": errors}
    results |= {"raw/recomputed": raw["accuracy"], "widths": rows, "chosen": choose_width(rows)}
    write_json(run.path / "posthoc.json", results)
    if png := render_figure("posthoc.png", lambda: draw_widths(results), "png"):
        write_whole(run.path / "posthoc.png", *png)


def show_accuracies(run, name, more=""):
    """Prints the accuracies of the weights that the network has now, with recomputed statistics; returns a dict."""
    run.recompute()
    found = run.accuracies()
    held_out = f", validation {100 * found['validation']:.2f}%" if "validation" in found else ""
    print(f"{name}: {100 * found['test']:.2f}%{held_out}{more}", flush=True)
    return {"accuracy": found.pop("test")} | found


def choose_width(rows):
    """The width that is best on the validation images, of those that the snapshots can make; None where there is none.

    Args:
      rows: dicts with the keys width, accuracy, residual and, where images are held out, validation.
    """
    sound = {f"width {row['width']:g}": row for row in rows if row["residual"] <= MAX_RESIDUAL}
    name, reason = choose(None, [{name: row["validation"] for name, row in sound.items() if "validation" in row}])
    chosen = f"{name}, {reason}, test accuracy {100 * sound[name]['accuracy']:.2f}%" if name else "no width"
    print_wrapped(
        f"chosen: {chosen}. A choice takes images held out with --validation_size; residual is how far what the "
        f"snapshots make is from the profile of the width, and over {MAX_RESIDUAL:.0%} it is no such average. --widths "
        "makes others."
    )
    return sound[name]["width"] if name else None


def check_synthesis(snapshots, basis):
    """Relative weight error of every tracked average that is not in the basis, made from it: width as text to error."""
    errors = {}
    checked = sorted(set(snapshots.widths) - set(basis))
    for width, made in zip(checked, snapshots.synthesise(checked, basis)[0], strict=True):
        errors[f"{width:g}"] = error = relative_error(made, snapshots.tracked(width))
        print(f"width {width:g}, which training tracked too: relative weight error {error:.2%}")
    return errors


def draw_widths(results):
    """The axes of test accuracy against width; widths that the snapshots cannot make are crosses."""
    axes = new_axes("relative width of the average (% of training)", "test accuracy (%), recomputed statistics")
    for style, label, drawn in (
        ("o-", "post-hoc EMA", lambda row: row["residual"] <= MAX_RESIDUAL),
        ("x", "residual over 5%", lambda row: row["residual"] > MAX_RESIDUAL),
        ("r*", "chosen", lambda row: row["width"] == results["chosen"]),
    ):
        if points := [(100 * row["width"], 100 * row["accuracy"]) for row in results["widths"] if drawn(row)]:
            axes.plot(*zip(*points, strict=True), style, label=label)
    raw = f"raw weights after step {results['raw_step']}"
    axes.axhline(100 * results["raw/recomputed"], linestyle="--", color="grey", label=raw)
    return add_legend(axes)


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
      ([n] float64 that add up to 1, as the weights of an average do; the residual: the norm of the difference between
      the profile that they make and the target's, relative to the norm of the target's).
    """
    t, gamma = np.asarray(times, np.float64), np.asarray(gammas, np.float64)
    target = np.float64(target_time), np.float64(target_gamma)
    gram = inner_products(t[:, None], gamma[:, None], t[None, :], gamma[None, :])
    right = inner_products(t, gamma, *target)
    shares = np.linalg.lstsq(gram, right, rcond=None)[0]
    shares /= shares.sum()
    square = inner_products(*target, *target)
    difference = shares @ gram @ shares - 2 * shares @ right + square
    return shares, float(np.sqrt(max(difference, 0) / square))  # rounding may leave less than nothing


class Snapshots:
    """The snapshots of a run directory; a UserError where there are none, or one is damaged."""

    def __init__(self, path):
        self.files = list_snapshots(path)
        if not self.files:
            raise UserError(f"{path} holds no snapshots: {how_to_have_some(path)}")
        self.final_time, last = _load(self.files[-1])
        self.shapes = _shapes(last)
        self.widths = sorted({_width_of(name) for name in last})
        self.step = int(self.files[-1].stem.removeprefix("step-"))

    def tracked(self, width):
        """The average of `width` that training itself kept, at the end: variable name to array."""
        return _of_width(_load(self.files[-1])[1], width)

    def synthesise(self, widths, basis):
        """Makes averages of relative widths `widths`, at the last snapshot, from the tracked ones of widths `basis`.

        Returns:
          (for each width, variable name to float64 array; for each width, the residual of `coefficients`).
        """
        times = [_load(file, self.shapes)[0] for file in self.files]
        grid = [(time, power_gamma(width)) for time in times for width in basis]
        found = [coefficients(*zip(*grid, strict=True), self.final_time, power_gamma(width)) for width in widths]
        averages = [{} for _ in widths]
        for i, file in enumerate(self.files):  # one snapshot in memory at a time
            _, arrays = _load(file)
            for j, width in enumerate(basis):
                for name, value in _of_width(arrays, width).items():
                    for average, (shares, _) in zip(averages, found, strict=True):
                        average[name] = average.get(name, 0) + shares[i * len(basis) + j] * value.astype(np.float64)
        return averages, [residual for _, residual in found]


def how_to_have_some(path):
    """What a person can do about a run without snapshots."""
    flags, resume = load_flags(path), resume_command(path)
    if not flags.ema_power:
        return "train with --ema_power 0.05 0.1 to keep them"
    if not (path / "summary.json").exists():
        return f"let {resume} go on first"
    others = f", or let {resume} --epochs {flags.epochs + 1} make others"
    return f"restore {path / 'snapshots'} from a copy{'' if flags.lr_cooldown else others}"


def relative_error(weights, reference):
    """||weights - reference|| / ||reference|| over all variables, each variable name to array."""
    one, other = (
        np.concatenate([values[name].ravel().astype(np.float64) for name in reference])
        for values in (weights, reference)
    )
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def _load(file, shapes=None):
    """The update number and the averages {"<width>/<variable>": array} of a snapshot, of these shapes if given."""
    with read_errors(file, f": {DELETE}"), open_arrays(file) as arrays:
        averages = dict(arrays)
        updates = int(averages.pop("updates"))
        sound = all(_width_of(name) and np.isfinite(array).all() for name, array in averages.items())
        if updates < 1 or not averages or not sound:
            raise ValueError("it holds no averages")
        if shapes and _shapes(averages) != shapes:
            raise ValueError("its averages are others than those of the last snapshot")
    return updates, averages


def _shapes(averages):
    return {name: array.shape for name, array in averages.items()}


def _width_of(name):
    return float(name.partition("/")[0])


def _of_width(arrays, width):
    prefix = f"{width:g}/"
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
