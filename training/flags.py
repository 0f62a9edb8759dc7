"""The flags of train.py, what config.json keeps of them, and which of them a resumption may change.

Without TensorFlow: `--help` and a typo are answered at once. What all command lines share is here too.
"""

import argparse
import difflib
import json
import math
import os
import re
from pathlib import Path

from training.cli import UserError, in_one_line, script

# What may differ between a run and its resumption; every other flag shapes the numbers of the steps done before.
RESUMABLE_FLAGS = {
    "run_dir",
    "resume",
    "epochs",
    "lr_cooldown",  # see training.settings
    "eval_every",
    "data_dir",
    "device",
    "strategy",
    "devices",
    "xla",
    "checkpoint_every",
}

LONGEST_DECAY = 40  # characters; they are part of names
MAX_DECAY = 1 - 2**-25  # what lies above is 1 in float32


def number(convert, low, high=math.inf, *, above=False):
    """An argparse type: a number in [low, high), or in (low, high) with above."""
    bounds = f"{'(' if above else '['}{low:g}, {high:g})"

    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            kind = "whole number" if convert is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind} in {bounds}") from None
        if not (value > low if above else value >= low) or not value < high:
            raise argparse.ArgumentTypeError(f"{text} is not in {bounds}")
        return value

    return parse


natural, count = number(int, 0, 10**9), number(int, 1, 10**9)
share, positive = number(float, 0, 1), number(float, 0, above=True)

EXAMPLES = """
examples:
  the guide: CIFAR-10, 20 epochs, decay 0.998
    python train.py
  what is recommended
    python train.py --ema_start warmup --ema_batch_stats recomputed
  without a download
    python train.py --dataset synthetic --width 0.25 --epochs 6
  several averages in one run
    python train.py --ema_decay 0.998 0.99 0.9995 --ema_start unbiased
  10 epochs more
    python train.py --resume --run_dir RUN --epochs 30
"""


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows every default but those that say nothing; keeps the lines of descriptions as they are."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default is argparse.SUPPRESS:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(action.default)})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, not with the usage of thirty flags."""

    def error(self, message):
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        near = difflib.get_close_matches(unknown[1], self._option_string_actions, 1) if unknown else []
        hint = f"did you mean {near[0]}? " if near else ""
        help = f"{script(self.prog.partition('.')[0])}{self.prog.partition('.py')[2]} --help"
        self.exit(2, f"{Path(self.prog).name}: {in_one_line(message)} ({hint}every flag: {help})\n")


def build_parser():
    parser = Parser(
        prog="train.py",
        description="Train a CIFAR-10 classifier; compare its raw weights with their moving average.",
        formatter_class=Formatter,
        allow_abbrev=False,
        epilog=EXAMPLES,
    )
    add = parser.add_argument_group("data").add_argument
    add("--dataset", choices=["cifar10", "synthetic"], default="cifar10", help="images; synthetic ones need no network")
    add("--data_dir", metavar="DIR", type=path, help="TFDS directory (default: TFDS's own, so TFDS_DATA_DIR works)")
    add("--train_size", metavar="N", type=count, help="number of training images, the first ones (default: all)")
    add("--test_size", metavar="N", type=count, help="number of test images, the first ones (default: all)")
    held_out = "training images, the last ones, that are held out and evaluated like the test set"
    add("--validation_size", metavar="N", type=natural, default=0, help=held_out)
    add("--label_noise", metavar="SHARE", type=share, default=0.0, help="share of the training labels made wrong")
    add("--augment", action="store_true", help="random flips and shifts of the training images")

    add = parser.add_argument_group("model").add_argument
    add("--width", type=number(float, 0, 64, above=True), default=1.0, help="factor of the channels of every layer")
    add("--dropout", type=share, default=0.5, help="rate, after each max pool")

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=count, default=20, help="passes over the training images")
    add("--batch_size", type=count, default=64, help="images in a step")
    add("--learning_rate", type=positive, default=1e-3, help="rate of Adam")
    cooled = "last epochs, over which the learning rate falls linearly to 0"
    add("--lr_cooldown", metavar="EPOCHS", type=natural, default=0, help=cooled)
    add("--adam_beta1", type=moment_decay, default=0.5, help="decay of Adam's first moment")
    drawn = "random seed of weights, data order, dropout and noise"
    add("--seed", type=number(int, 0, 2**31), default=0, help=drawn)

    _add_averages(parser.add_argument_group("exponential moving average").add_argument)
    _add_system(parser.add_argument_group("system").add_argument)
    return parser


def _add_averages(add):
    decays = "decays of the shadow weights, per step; several are tracked side by side, the first is the primary one"
    add("--ema_decay", metavar="DECAY", nargs="+", type=decay, default=["0.998"], help=decays)
    starts = (
        "start of the shadows; initial: as the initial weights, the guide's; warmup: min(decay, (1 + t) / (10 + t)); "
        "unbiased: the initial weights are removed exactly"
    )
    add("--ema_start", choices=["initial", "warmup", "unbiased"], default="initial", help=starts)
    policies = ["raw", "averaged", "recomputed"]
    statistics = (
        "batch statistics that the EMA weights are evaluated with, any of: raw, the raw network's, the guide's; "
        "averaged, averaged like the weights; recomputed, over training images with the EMA weights"
    )
    add("--ema_batch_stats", metavar="POLICY", nargs="+", choices=policies, default=["raw"], help=statistics)
    widths = "relative widths of power-function averages to track too, for evaluate.py posthoc"
    add("--ema_power", metavar="WIDTH", nargs="+", type=width, help=widths)


def _add_system(add):
    add("--run_dir", metavar="DIR", type=path, help="where everything is written (default: runs/<date>-<time>)")
    free = ", ".join(sorted(RESUMABLE_FLAGS - {"run_dir", "resume"}))
    add("--resume", action="store_true", help=f"go on with the run in --run_dir, with its flags; may change: {free}")
    add("--eval_every", metavar="EPOCHS", type=count, default=1, help="epochs between evaluations")
    saved = "minutes between checkpoints; every evaluation saves one too"
    add("--checkpoint_every", metavar="MINUTES", type=positive, default=10.0, help=saved)
    add("--device", choices=["auto", "cpu", "gpu"], default="auto", help="device; auto takes a GPU if there is one")
    strategies = (
        "data-parallel training; mirrored: on all GPUs of this machine, or on --devices CPUs; multiworker: on those of "
        "every worker in the environment variable TF_CONFIG"
    )
    add("--strategy", choices=["none", "mirrored", "multiworker"], default="none", help=strategies)
    used = "devices of this machine that --strategy uses (default: all GPUs)"
    add("--devices", metavar="N", type=number(int, 1, 1000), help=used)
    computed = "precision of the convolutions; auto takes bfloat16 where a measurement finds it faster"
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help=computed)
    add("--xla", choices=["auto", "on", "off"], default="auto", help="compilation of the training loop; auto: on a GPU")


def moment_decay(text):
    """A decay below 1 in float32 too: at 1 nothing would ever move."""
    value = share(text)
    if value >= MAX_DECAY:
        raise argparse.ArgumentTypeError(f"{text} is 1 in float32")
    return value


def decay(text):
    """A decay as text, because that names variables and classifiers; plain digits."""
    moment_decay(text)
    if len(text) > LONGEST_DECAY or not re.fullmatch(r"[0-9]*\.?[0-9]*([eE]-?[0-9]+)?", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no plain number of at most {LONGEST_DECAY} characters, such as 0.998"
        )
    return text


def width(text):
    """A relative width, to the digits that name its average."""
    return number(lambda text: float(f"{float(text):g}"), 1e-6, 0.28)(text)


def path(text):
    """An absolute path, so that a run can be resumed from any directory."""
    if not text or "://" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a usable local path")
    return os.path.abspath(os.path.expanduser(text))


def as_argv(values):
    """The command line that sets the flags in `values`, name to value."""
    argv = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        parts = list(map(str, value if isinstance(value, list) else [] if value is True else [value]))
        # A lone value that begins with a dash, such as a directory's name, must not look like a flag.
        argv += [f"--{name}={parts[0]}"] if len(parts) == 1 and parts[0].startswith("-") else [f"--{name}", *parts]
    return argv


# ---------------------------------------------------------------------------------------------------------------
# A run, new or resumed


def parse(argv=None):
    """Parses the command line of train.py; with --resume the flags of the run's config.json are the defaults.

    Returns:
      argparse.Namespace, as typed, but for paths, which are absolute.

    Raises:
      UserError: the run to resume has no readable config.json, or was made with other flags.
      SystemExit: status 0 after --help, 2 after a usage error.
    """
    parser = build_parser()
    flags = parser.parse_args(argv)
    if flags.resume and not flags.run_dir:
        parser.error("--resume needs --run_dir: the directory of the run to continue")
    if flags.resume:
        saved = load_flags(flags.run_dir)
        parser.set_defaults(**vars(saved))
        flags = parser.parse_args(argv)
        if flags.strategy != saved.strategy:  # the devices were those of the strategy
            parser.set_defaults(devices=None)
            flags = parser.parse_args(argv)
        check_unchanged(flags, saved)
        needed = flags.data_dir if flags.dataset == "cifar10" else None
        if needed and needed == saved.data_dir and not os.path.isdir(needed):
            raise UserError(
                f"the data directory {flags.data_dir}, which {flags.run_dir}/config.json names, is not there: say "
                "where the data are with --data_dir"
            )
    elif flags.strategy == "multiworker" and not flags.run_dir:
        parser.error("--strategy multiworker needs --run_dir: one directory that every worker sees")
    given = {"ema_decay": list(map(float, flags.ema_decay)), "ema_power": flags.ema_power or []}
    for name, values in (given | {"ema_batch_stats": flags.ema_batch_stats}).items():
        if len(set(values)) < len(values):
            parser.error(f"argument --{name}: each value may be given once")
    return flags


def check_unchanged(flags, saved):
    """Checks that a resumption changes no flag but those of RESUMABLE_FLAGS.

    Raises:
      UserError: names what the run was trained with.
    """
    changed = [name for name in set(vars(saved)) - RESUMABLE_FLAGS if getattr(flags, name) != getattr(saved, name)]
    if "precision" in changed and flags.precision in ("auto", load_precision(flags.run_dir)):  # what the run has anyway
        changed.remove("precision")
    if changed:
        was = ", ".join(" ".join(as_argv({name: getattr(saved, name)})) or f"no --{name}" for name in sorted(changed))
        raise UserError(f"{flags.run_dir} was trained with {was}: resume it with the same, or start a new --run_dir", 2)


def load_config(run_dir):
    """Reads the config.json of a run: a dict with `flags`, `precision`, `device`, `versions`, `git_commit`."""
    file = Path(run_dir) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(config, dict) and isinstance(config.get("flags"), dict)):
            raise ValueError("it has no flags")
        return config
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run_dir} is not a run directory (no config.json)") from None
    except ValueError as error:
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

    def error(message):
        raise ValueError(message)

    parser.error = error
    try:
        return parser.parse_args(as_argv(saved))
    except ValueError as reason:
        raise _damaged(run_dir, reason) from None


def _damaged(run_dir, error):
    file = Path(run_dir) / "config.json"
    return UserError(f"{file} is damaged ({error}): restore it from a copy, or start a new run in another --run_dir")
