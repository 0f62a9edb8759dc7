"""Post-hoc EMA (Karras et al. 2024, arXiv 2312.02696): any averaging width, after training, from snapshots of a few.

Training keeps snapshots of some power-function averages. A power-function average of any other width at the end is,
to a good approximation, a linear combination of them; least squares finds it, with closed-form inner products.
"""

import zipfile
from pathlib import Path

import numpy as np

from ema import power_gamma
from errors import UserError


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
