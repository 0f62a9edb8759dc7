"""config.json: what a run was asked for and what that came to; and which flags its resumption may change."""

import json
import shlex
import time
from pathlib import Path

from training.errors import UserError
from training.options import DEFAULT_DECAY, Decay, as_argv, build_parser

# What may differ between a run and its resumption; every other flag shapes the numbers of the steps done before.
UNBEGUN = {".lock", ".config.json.new"}  # all that a start leaves behind when it is killed before config.json is there
MAY_CHANGE = {
    "run_dir",
    "resume",
    "epochs",
    "lr_cooldown",  # see training.schedule
    "eval_every",
    "snapshots",
    "data_dir",
    "device",
    "strategy",
    "devices",
    "xla",
    "steps_per_run",
    "checkpoint_every",
}


def parse(argv=None):
    """Parses the command line of train.py; with --resume the flags of the run's config.json are the defaults.

    Returns:
      argparse.Namespace, as typed, but for `run_dir` and `ema_decay`, which are filled in.

    Raises:
      UserError: the run to resume has no readable config.json, or was made with other flags.
      SystemExit: status 0 after --help, 2 after a usage error.
    """
    parser = build_parser()
    flags = parser.parse_args(argv)
    if flags.resume and not flags.run_dir:
        parser.error("--resume needs --run_dir: the directory of the run to continue")
    if flags.resume:
        saved = load_flags(_begun(flags))
        parser.set_defaults(**vars(saved))
        flags = parser.parse_args(argv)
        if flags.strategy != saved.strategy:  # the devices were those of the strategy
            parser.set_defaults(devices=None)
            flags = parser.parse_args(argv)
        _check_unchanged(flags, saved)
    elif not flags.run_dir:
        flags.run_dir = time.strftime("runs/%Y%m%d-%H%M%S")
    if flags.ema_decay is None and flags.ema_horizon is None:
        flags.ema_decay = [Decay(DEFAULT_DECAY)]
    if "seeds" in flags and flags.strategy == "multiworker":
        parser.error("argument --seeds: with --strategy multiworker train one --seed after the other")
    for name in ("ema_decay", "ema_horizon", "ema_batch_stats", "ema_power", "seeds"):
        values = getattr(flags, name, None) or []
        if len(set(values)) < len(values):
            parser.error(f"argument --{name}: each value may be given once")
    return flags


def _check_unchanged(flags, saved):
    may_change = MAY_CHANGE | {"seed"} if "seeds" in flags else MAY_CHANGE
    changed = [
        name
        for name, value in vars(saved).items()
        if as_argv({name: getattr(flags, name)}) != as_argv({name: value}) and name not in may_change
    ]
    if "precision" in changed and flags.precision in ("auto", load_precision(_begun(flags))):  # what the run has anyway
        changed.remove("precision")
    if changed:
        was = ", ".join(" ".join(as_argv({name: getattr(saved, name)})) or f"no --{name}" for name in changed)
        raise UserError(f"{flags.run_dir} was trained with {was}: resume it with the same, or start a new --run_dir", 2)


def _begun(flags):
    """The directory whose config.json says what is resumed: the run's or, of several seeds, that of the first begun."""
    if "seeds" not in flags:
        return flags.run_dir
    path = Path(flags.run_dir)
    directories = [*(path / f"seed-{seed}" for seed in flags.seeds), *sorted(path.glob("seed-*"))]
    return next((directory for directory in directories if (directory / "config.json").exists()), path)


def load_config(run_dir):
    """The config.json of the run in `run_dir`: a dict with `flags`, `precision`, `device`, `versions`, `git_commit`.

    Raises:
      UserError: there is no such file, or it is damaged.
    """
    path = Path(run_dir) / "config.json"
    try:
        config = json.loads(path.read_text())
        if not (isinstance(config, dict) and isinstance(config.get("flags"), dict)):
            raise ValueError("it holds no flags")
        return config
    except OSError:
        raise UserError(
            f"{run_dir} holds no run (no readable config.json): start one with python train.py --run_dir "
            f"{shlex.quote(str(run_dir))}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(run_dir, error) from None


def load_precision(run_dir):
    """The precision that the run in `run_dir` was begun with, which --precision auto would choose anew elsewhere.

    Raises:
      UserError: as `load_config`.
    """
    precision = load_config(run_dir).get("precision")
    if precision not in ("float32", "bfloat16"):
        raise _damaged(run_dir, f"its precision is {precision!r}")
    return precision


def load_flags(run_dir):
    """The flags of the run in `run_dir`, checked as if typed.

    Raises:
      UserError: as `load_config`.
    """
    saved = load_config(run_dir)["flags"]
    parser = build_parser()

    def error(message):  # in place of an exit
        raise ValueError(message)

    parser.error = error
    parser.print_help = lambda: error("it asks for help")
    try:
        return parser.parse_args(as_argv(saved))
    except ValueError as reason:
        raise _damaged(run_dir, reason) from None


def _damaged(run_dir, error):
    path = Path(run_dir) / "config.json"
    return UserError(f"{path} is damaged ({error}): restore it from a copy, or start a new run in another --run_dir")


def saved_flags(flags):
    """Flags as config.json has them: as typed, because 0.990 names other variables than 0.99."""
    return vars(flags) | {"ema_decay": flags.ema_decay and list(map(str, flags.ema_decay))}
