"""The flags of train.py, the flags that config.json keeps, and which of them a resumed run may change.

Without TensorFlow: `--help` and usage errors are answered at once. Argument types shared with evaluate.py and report.py
are here too.
"""

import argparse
import difflib
import json
import math
import os
import re
from pathlib import Path

from training.cli import UserError, in_one_line, script
from training.labels import BATCH_STATS, DATASETS, EMA_STARTS

RESUMABLE_FLAGS = {  # may change when a run is resumed; all others determined the steps done so far
    "run_dir",
    "resume",
    "epochs",
    "lr_cooldown",  # see training.settings.check_schedule
    "eval_every",
    "data_dir",
    "device",
    "strategy",
    "replicas",
    "xla",
    "checkpoint_every",
}
NEW_RUN_FILES = re.compile(r"\.lock|\.config\.json\.\d+")  # left behind by a start that was killed early
MAX_DECAY = 1 - 2**-25  # a larger one is 1 in float32
MAX_STD = 0.28  # of a power-function average; larger ones have no exponent

EXAMPLES = """
examples:
  the guide: CIFAR-10, 20 epochs, decay 0.998
    python train.py
  recommended
    python train.py --ema_start warmup --ema_batch_stats recomputed
  without a download
    python train.py --dataset synthetic --width 0.25 --epochs 6
  several averages in one run
    python train.py --ema_decay 0.998 0.99 0.9995 --ema_start unbiased
  10 more epochs
    python train.py --resume --run_dir RUN --epochs 30
"""


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except None and False, and keeps the lines of descriptions."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default is argparse.SUPPRESS:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(action.default)})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Reports a usage error in one line instead of with the usage of thirty flags."""

    def error(self, message):
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        similar = difflib.get_close_matches(unknown[1], self._option_string_actions, 1) if unknown else []
        hint = f"did you mean {similar[0]}? " if similar else ""
        program, _, subcommand = self.prog.partition(".py")
        self.exit(2, f"{program}.py: {in_one_line(message)} ({hint}all flags: {script(program)}{subcommand} --help)\n")


# ---------------------------------------------------------------------------------------------------------------
# Argument types


def number(convert, low, high=math.inf, *, exclusive=False):
    """Returns an argparse type: a number in [low, high), or in (low, high) if exclusive."""
    bounds = f"{'(' if exclusive else '['}{low:g}, {high:g})"
    kind = "whole number" if convert is int else "number"

    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind} in {bounds}") from None
        if value < low or (exclusive and value == low) or not value < high:
            raise argparse.ArgumentTypeError(f"{text} is not in {bounds}")
        return value

    return parse


natural, count = number(int, 0, 10**9), number(int, 1, 10**9)
share, positive = number(float, 0, 1), number(float, 0, exclusive=True)


def moment_decay(text):
    """Parses a decay that is below 1 in float32 too."""
    value = share(text)
    if value >= MAX_DECAY:
        raise argparse.ArgumentTypeError(f"{text} is 1 in float32")
    return value


def decay(text):
    """Checks a decay and returns its text, which names variables and classifiers."""
    moment_decay(text)
    if not re.fullmatch(r"[0-9]*\.?[0-9]{0,40}([eE]-?[0-9]+)?", text):  # it is part of file names
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain number such as 0.998")
    return text


def std(text):
    """Parses the relative width of a power-function average, rounded to the digits in the average's name."""
    return number(lambda text: float(f"{float(text):g}"), 1e-6, MAX_STD)(text)


def path(text):
    """Returns an absolute path, so that a run can be resumed from any directory."""
    if not text or "://" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not a usable local path")
    return os.path.abspath(os.path.expanduser(text))


# ---------------------------------------------------------------------------------------------------------------
# The parser


def build_parser():
    """Returns the parser of train.py."""
    parser = Parser(
        prog="train.py",
        description="Train an image classifier; compare its raw weights with their exponential moving average.",
        formatter_class=Formatter,
        allow_abbrev=False,
        epilog=EXAMPLES,
    )
    _add_data(parser.add_argument_group("data").add_argument)
    _add_training(parser.add_argument_group("model and training").add_argument)
    _add_averages(parser.add_argument_group("exponential moving average").add_argument)
    _add_system(parser.add_argument_group("system").add_argument)
    return parser


def _add_data(add):
    add("--dataset", choices=DATASETS, default="cifar10", help="data set; synthetic needs no network")
    add("--data_dir", metavar="DIR", type=path, help="TFDS directory (default: TFDS_DATA_DIR or ~/tensorflow_datasets)")
    add("--train_size", metavar="N", type=count, help="use only the first N training images (default: all)")
    add("--test_size", metavar="N", type=count, help="use only the first N test images (default: all)")
    validation = "use the last N training images for validation instead"
    add("--validation_size", metavar="N", type=natural, default=0, help=validation)
    add("--label_noise", metavar="SHARE", type=share, default=0.0, help="share of wrong training labels")
    add("--augment", action="store_true", help="flip and shift the training images at random")


def _add_training(add):
    add("--width", type=number(float, 0, 64, exclusive=True), default=1.0, help="factor of the number of channels")
    add("--dropout", type=share, default=0.5, help="dropout rate after each max pool")
    add("--epochs", type=count, default=20, help="passes over the training images")
    add("--batch_size", type=count, default=64, help="images per step")
    add("--learning_rate", type=positive, default=1e-3, help="learning rate of Adam")
    cooldown = "let the learning rate fall linearly to 0 over the last epochs"
    add("--lr_cooldown", metavar="EPOCHS", type=natural, default=0, help=cooldown)
    add("--adam_beta1", type=moment_decay, default=0.5, help="decay of Adam's first moment")
    add("--seed", type=number(int, 0, 2**31), default=0, help="random seed of weights, data order, dropout and noise")


def _add_averages(add):
    decays = "decay per step; several are tracked side by side, and the first is the primary one"
    add("--ema_decay", metavar="DECAY", nargs="+", type=decay, default=["0.998"], help=decays)
    starts = (
        "initial: start from the initial weights, as in the guide; warmup: use the decay min(DECAY, (1 + t) / (10 + t))"
        " at first; unbiased: remove the initial weights exactly"
    )
    add("--ema_start", choices=EMA_STARTS, default="initial", help=starts)
    statistics = (
        "batch statistics for the EMA weights, one or more of: raw, those of the raw network, as in the guide; "
        "averaged, averaged like the weights; recomputed, computed over training images with the EMA weights"
    )
    add("--ema_batch_stats", metavar="POLICY", nargs="+", choices=BATCH_STATS, default=["raw"], help=statistics)
    stds = "relative stds of power-function averages to track too, for evaluate.py posthoc"
    add("--ema_power", metavar="STD", nargs="+", type=std, help=stds)


def _add_system(add):
    add("--run_dir", metavar="DIR", type=path, help="directory to write (default: runs/<date>-<time>)")
    changeable = ", ".join(sorted(RESUMABLE_FLAGS - {"run_dir", "resume"}))
    add("--resume", action="store_true", help=f"resume the run in --run_dir with its flags; may change: {changeable}")
    add("--eval_every", metavar="EPOCHS", type=count, default=1, help="epochs between evaluations")
    checkpoints = "minutes between checkpoints; every evaluation saves one too"
    add("--checkpoint_every", metavar="MINUTES", type=positive, default=10.0, help=checkpoints)
    add("--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto: the GPU if there is one")
    strategies = (
        "data-parallel training; mirrored: on all GPUs of this machine, or on --replicas CPUs; multiworker: on all "
        "machines in the environment variable TF_CONFIG"
    )
    add("--strategy", choices=["none", "mirrored", "multiworker"], default="none", help=strategies)
    replicas = "number of devices of this machine for --strategy (default: all GPUs)"
    add("--replicas", metavar="N", type=number(int, 1, 1000), help=replicas)
    precision = "precision of the convolutions; auto: bfloat16 if a short timing shows that it is faster"
    add("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help=precision)
    add("--xla", choices=["auto", "on", "off"], default="auto", help="compile the training loop; auto: on a GPU")


def as_argv(values):
    """Returns the command line that sets the flags in `values`, name to value."""
    argv = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        values = value if isinstance(value, list) else [value]
        texts = [] if value is True else list(map(str, values))
        if len(texts) == 1 and texts[0].startswith("-"):  # would look like a flag
            argv.append(f"--{name}={texts[0]}")
        else:
            argv += [f"--{name}", *texts]
    return argv


# ---------------------------------------------------------------------------------------------------------------
# A run, new or resumed


def parse(argv=None):
    """Parses the command line of train.py; with --resume, the flags in the run's config.json are the defaults.

    Returns:
      argparse.Namespace, as typed, with absolute paths.

    Raises:
      UserError: the run to resume is missing, corrupt, or was trained with other flags; a new run would overwrite
        something.
      SystemExit: status 0 after --help, 2 after a usage error.
    """
    parser = build_parser()
    flags = parser.parse_args(argv)
    if flags.resume and not flags.run_dir:
        parser.error("--resume needs --run_dir: the directory of the run to continue")
    if flags.strategy == "multiworker" and not flags.run_dir:
        parser.error("--strategy multiworker needs --run_dir: one directory that all workers share")
    if flags.resume:
        flags = _resume(parser, argv, flags.replicas)
    elif flags.run_dir and flags.strategy != "multiworker":  # another worker may have started the run already
        check_new(flags.run_dir)
    lists = {
        "ema_decay": list(map(float, flags.ema_decay)),
        "ema_power": flags.ema_power or [],
        "ema_batch_stats": flags.ema_batch_stats,
    }
    for name, values in lists.items():
        if len(set(values)) < len(values):
            parser.error(f"argument --{name}: a value appears twice")
    return flags


def _resume(parser, argv, typed_replicas):
    """Parses the command line again over the saved flags of the run."""
    run_dir = parser.parse_args(argv).run_dir
    saved = load_flags(run_dir)
    flags = parser.parse_args(argv, argparse.Namespace(**vars(saved)))
    if flags.strategy != saved.strategy:  # the saved number of replicas belongs to the saved strategy
        flags.replicas = typed_replicas
    check_unchanged(flags, saved)
    return flags


def check_new(run_dir):
    """Refuses a directory in which a new run would overwrite something."""
    directory = Path(run_dir)
    if (directory / "config.json").exists():
        raise UserError(f"{run_dir} already holds a run: continue it with --resume or choose another --run_dir")
    if directory.exists() and not (directory.is_dir() and all(map(NEW_RUN_FILES.fullmatch, os.listdir(directory)))):
        raise UserError(f"{run_dir} exists and is not a run: choose another --run_dir")


def check_unchanged(flags, saved):
    """Checks that a resumed run changes no flag except RESUMABLE_FLAGS.

    Raises:
      UserError: names the flags that the run was trained with.
    """
    changed = {name for name in set(vars(saved)) - RESUMABLE_FLAGS if getattr(flags, name) != getattr(saved, name)}
    if flags.precision in ("auto", load_precision(flags.run_dir)):  # the run keeps its precision
        changed.discard("precision")
    if changed:
        before = [" ".join(as_argv({name: getattr(saved, name)})) or f"no --{name}" for name in sorted(changed)]
        raise UserError(
            f"{flags.run_dir} was trained with {', '.join(before)}: resume it with the same, or start a new --run_dir",
            2,
        )


def load_config(run_dir):
    """Reads the config.json of a run: a dict with `flags`, `precision`, `device`, `versions`, `git_commit`.

    Raises:
      UserError: the file is missing or corrupt.
    """
    file = Path(run_dir) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not (isinstance(config, dict) and isinstance(config.get("flags"), dict)):
            raise ValueError("it has no flags")
        return config
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{run_dir} is not a run directory (no config.json)") from None
    except ValueError as error:
        raise _corrupt(run_dir, error) from None


def load_precision(run_dir, config=None):
    """Returns the precision that a run was started with; --precision auto could choose another one elsewhere.

    Raises:
      UserError: see `load_config`.
    """
    precision = (config or load_config(run_dir)).get("precision")
    if precision not in ("float32", "bfloat16"):
        raise _corrupt(run_dir, f"its precision is {precision!r}")
    return precision


def load_flags(run_dir, config=None):
    """Returns the flags of a run, checked as if typed.

    Raises:
      UserError: see `load_config`.
    """
    saved = dict((config or load_config(run_dir))["flags"])
    if "devices" in saved:  # the former name of --replicas
        saved["replicas"] = saved.pop("devices")
    parser = build_parser()

    def error(message):
        raise ValueError(message)

    parser.error = error
    try:
        return parser.parse_args(as_argv(saved))
    except ValueError as reason:
        raise _corrupt(run_dir, reason) from None


def _corrupt(run_dir, error):
    file = Path(run_dir) / "config.json"
    return UserError(f"{file} is corrupt ({error}): restore it from a copy, or start a new run in another --run_dir")
