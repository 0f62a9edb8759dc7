"""The command lines of train.py and evaluate.py. Pure Python: `--help` and a typo are answered at once."""

import argparse
import json
import math
import re
import time
from pathlib import Path

from errors import UserError

# What may differ between a run and its resumption; every other flag shapes the numbers.
MAY_CHANGE = {
    "run_dir",
    "resume",
    "epochs",
    "lr_cooldown",
    "data_dir",
    "device",
    "xla",
    "steps_per_run",
    "checkpoint_every",
}


DEFAULT_DECAY = "0.998"
MAX_DECAY = 1 - 2**-25  # what lies above is 1 in float32


class Decay(float):
    """A decay that remembers how it was typed, because it labels the classifier in tables and files."""

    def __new__(cls, text):
        decay = super().__new__(cls, text)
        decay.text = str(text)
        return decay

    def __str__(self):
        return self.text


def number(convert, low, high=math.inf, *, above=False, below=True):
    """An argparse type: a number in [low, high), or (low, high) with above, or up to high with below=False."""
    bounds = f"{'(' if above else '['}{low:g}, {high:g}{')' if below else ']'}"

    def parse(text):
        try:
            value = convert(text)
        except ValueError:
            kind = "whole number" if convert is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r} is not a {kind} in {bounds}") from None
        if not (value > low if above else value >= low) or not (value < high if below else value <= high):
            raise argparse.ArgumentTypeError(f"{text} is not in {bounds}")
        return value

    return parse


count = number(int, 1)


class Interval(str):
    """How often to save a checkpoint, as typed: "500" steps or "10m" minutes."""

    def __new__(cls, text):
        try:
            number(float, 0, above=True)(text[:-1]) if text.endswith("m") else count(text)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(f"{text!r} is neither steps, as 500, nor minutes, as 10m") from None
        return super().__new__(cls, text)

    @property
    def steps(self):
        return None if self.endswith("m") else int(self)

    @property
    def seconds(self):
        return 60 * float(self[:-1]) if self.endswith("m") else math.inf


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows every default but those that say nothing."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default is argparse.SUPPRESS:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(action.default)})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line, not with the usage of thirty flags."""

    def error(self, message):
        message = " ".join(message.split())  # what was typed may hold line breaks
        self.exit(2, f"{self.prog}: {message} (every flag: python {self.prog} --help)\n")


def build_parser():
    parser = Parser(
        prog="train.py",
        description="Train a CIFAR-10 classifier and compare its raw weights with their exponential moving average.",
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--dataset", choices=["cifar10", "synthetic"], default="cifar10", help="synthetic needs no network"
    )
    data.add_argument("--data_dir", metavar="DIR", help="TFDS directory (default: TFDS's own, so TFDS_DATA_DIR works)")
    data.add_argument("--train_size", metavar="N", type=count, help="only the first N training images (default: all)")
    data.add_argument("--test_size", metavar="N", type=count, help="only the first N test images (default: all)")
    data.add_argument(
        "--validation_size",
        metavar="N",
        type=number(int, 0),
        default=0,
        help="hold the last N training images out, and evaluate every classifier on them too",
    )
    data.add_argument(
        "--label_noise",
        metavar="SHARE",
        type=number(float, 0, 1, below=False),
        default=0.0,
        help="share of the training labels that are replaced by another class",
    )
    data.add_argument("--augment", action="store_true", help="flip and shift the training images at random")

    model = parser.add_argument_group("model")
    model.add_argument("--width", type=number(float, 0, 64, above=True), default=1.0, help="multiplies the channels")
    model.add_argument("--dropout", type=number(float, 0, 1), default=0.5, help="rate, after each max pool")

    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=count, default=20, help="passes over the training images")
    training.add_argument("--batch_size", type=count, default=64, help="images per step")
    training.add_argument("--learning_rate", type=number(float, 0, above=True), default=1e-3, help="of Adam, constant")
    training.add_argument(
        "--lr_cooldown",
        metavar="EPOCHS",
        type=number(int, 0),
        default=0,
        help="last epochs, over which the learning rate falls linearly to 0",
    )
    training.add_argument(
        "--label_smoothing",
        metavar="X",
        type=number(float, 0, 1),
        default=0.0,
        help="share of the target spread evenly",
    )
    training.add_argument("--adam_beta1", type=number(float, 0, 1), default=0.5, help="Adam's first-moment decay")
    seeds = training.add_mutually_exclusive_group()
    seed = number(int, 0, 2**31)
    seeds.add_argument("--seed", type=seed, default=0, help="of weights, data order and dropout")
    seeds.add_argument(
        "--seeds",
        metavar="SEED",
        nargs="+",
        type=seed,
        default=argparse.SUPPRESS,  # a run has one seed: the other runs know nothing of this flag
        help="the same run for each of several seeds, in RUN_DIR/seed-<seed>, then report.py over them",
    )

    ema = parser.add_argument_group("exponential moving average")
    decays = ema.add_mutually_exclusive_group()
    decays.add_argument(
        "--ema_decay",
        metavar="DECAY",
        nargs="+",
        type=_decay,
        help="of the shadow weights, per step; several are tracked side by side, the first is the primary one "
        f"(default: {DEFAULT_DECAY})",
    )
    decays.add_argument(
        "--ema_horizon",
        metavar="EPOCHS",
        nargs="+",
        type=number(float, 0, above=True),
        help="instead of decays, how many epochs of images each averages over: 1 / (1 - decay) steps",
    )
    ema.add_argument(
        "--ema_start",
        choices=["initial", "warmup", "unbiased"],
        default="initial",
        help="initial: the shadow starts as the initial weights, the guide's; warmup: min(decay, (1 + t) / (10 + t)); "
        "unbiased: the initial weights are removed exactly",
    )
    ema.add_argument("--ema_every", metavar="K", type=count, default=1, help="update every K steps, with decay^K")
    ema.add_argument(
        "--ema_batch_stats",
        metavar="POLICY",
        nargs="+",
        choices=["raw", "averaged", "recomputed"],
        default=["raw"],
        help="batch statistics that the EMA weights are evaluated with, any of: raw, the raw network's, the guide's; "
        "averaged, averaged like the weights; recomputed, over training images with the EMA weights",
    )
    ema.add_argument(
        "--recompute_size",
        metavar="N",
        type=count,
        default=5000,
        help="training images that statistics are recomputed over",
    )
    ema.add_argument("--recompute_dropout", action="store_true", help="recompute statistics with dropout on")
    ema.add_argument(
        "--ema_power",
        metavar="WIDTH",
        nargs="+",
        type=_width,
        help="also track power-function averages of these relative widths, for evaluate.py posthoc",
    )
    ema.add_argument(
        "--snapshots", metavar="N", type=count, default=8, help="of the power-function averages, per epoch"
    )

    system = parser.add_argument_group("system")
    system.add_argument("--run_dir", metavar="DIR", help="where everything is written (default: runs/<date>-<time>)")
    system.add_argument("--resume", action="store_true", help="continue the run in --run_dir, with its own flags")
    system.add_argument("--eval_every", metavar="EPOCHS", type=count, default=1, help="epochs between evaluations")
    system.add_argument(
        "--checkpoint_every",
        metavar="N",
        type=Interval,
        default="10m",
        help="a checkpoint after so many steps, as 500, or minutes, as 10m, and after every evaluation",
    )
    system.add_argument(
        "--device", choices=["auto", "cpu", "gpu"], default="auto", help="auto takes a GPU if there is one"
    )
    system.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of the convolutions; auto takes bfloat16 where the processor has it",
    )
    system.add_argument(
        "--xla", choices=["auto", "on", "off"], default="auto", help="compile the training loop; auto: on a GPU"
    )
    system.add_argument(
        "--steps_per_run", metavar="K", type=count, help="steps in one session.run (default: 10 on a CPU, 100 on a GPU)"
    )
    return parser


def _decay(text):
    """Plain digits, because the text names variables; below 1 in float32 too, or the shadow would never move."""
    decay = number(float, 0, 1)(text)
    if not re.fullmatch(r"[0-9]*\.?[0-9]*([eE]-?[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not written as a plain number, such as 0.998")
    if decay >= MAX_DECAY:
        raise argparse.ArgumentTypeError(f"{text} is 1 in float32: the average would never move")
    return Decay(text)


def _width(text):
    """A relative width, to the digits that name its average."""
    return float(f"{number(float, 0, 0.28, above=True)(text):g}")


def parse(argv=None):
    """Parses a command line; with --resume the flags of the run's config.json are the defaults.

    Returns:
      argparse.Namespace, `run_dir` filled in.

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
        may_change = MAY_CHANGE | {"seed"} if "seeds" in flags else MAY_CHANGE
        changed = [
            name
            for name, value in vars(saved).items()
            if as_argv({name: getattr(flags, name)}) != as_argv({name: value}) and name not in may_change
        ]
        if changed:
            was = ", ".join(" ".join(as_argv({name: getattr(saved, name)})) or f"no --{name}" for name in changed)
            raise UserError(
                f"{flags.run_dir} was trained with {was}: resume it with the same, or start a new --run_dir", 2
            )
    elif not flags.run_dir:
        flags.run_dir = time.strftime("runs/%Y%m%d-%H%M%S")
    if flags.ema_decay is None and flags.ema_horizon is None:
        flags.ema_decay = [Decay(DEFAULT_DECAY)]
    for name in ("ema_decay", "ema_horizon", "ema_batch_stats", "ema_power", "seeds"):
        values = getattr(flags, name, None) or []
        if len(set(values)) < len(values):
            parser.error(f"argument --{name}: each value may be given once")
    return flags


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
            f"{run_dir} holds no run (no readable config.json): start one with python train.py --run_dir {run_dir}"
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
    try:
        return _QuietParser.parse(as_argv(saved))
    except ValueError as error:
        raise _damaged(run_dir, error) from None


def _damaged(run_dir, error):
    path = Path(run_dir) / "config.json"
    return UserError(f"{path} is damaged ({error}): restore it from a copy, or start a new run in another --run_dir")


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


class _QuietParser:
    """Parses saved flags with the same checks as typed ones, but raises ValueError instead of exiting."""

    @staticmethod
    def parse(argv):
        parser = build_parser()

        def error(message):
            raise ValueError(message)

        parser.error = error
        parser.print_help = lambda: error("it asks for help")
        return parser.parse_args(argv)


# ---------------------------------------------------------------------------------------------------------------
# evaluate.py


def build_evaluate_parser():
    parser = Parser(
        prog="evaluate.py", description="What a run of train.py is worth; its flags are known.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False, formatter_class=Formatter)
        if name != "predict":
            command.add_argument("--run_dir", metavar="DIR", required=True, help="of a run of train.py")
        command.add_argument("--data_dir", metavar="DIR", help="TFDS directory, if the data has moved since")
        return command

    table = add("table", "compare every classifier of a run on the test set")
    table.add_argument("--format", choices=["text", "json", "csv"], default="text")

    posthoc = add("posthoc", "make power-function averages of any width from a run's snapshots")
    posthoc.add_argument("--widths", metavar="WIDTH", nargs="+", type=_width, help="relative widths to make and test")
    posthoc.add_argument(
        "--basis", metavar="WIDTH", nargs="+", type=_width, help="tracked widths to make them from (default: all)"
    )

    export = add("export", "write one classifier as a SavedModel that needs nothing of this project")
    export.add_argument("--weights", choices=["raw", "ema"], default="ema", help="of the classifier")
    export.add_argument("--decay", metavar="DECAY", type=_decay, help="of the EMA (default: the run's primary one)")
    export.add_argument(
        "--batch_stats",
        choices=["raw", "averaged", "recomputed"],
        help="batch statistics it works with (default: the run's first)",
    )
    export.add_argument("--output", metavar="DIR", required=True, help="new directory to write")

    predict = add("predict", "classify image files with the raw and the EMA weights, or with an exported classifier")
    source = predict.add_mutually_exclusive_group(required=True)
    source.add_argument("--run_dir", metavar="DIR", help="of a run of train.py")
    source.add_argument("--model", metavar="DIR", help="written by evaluate.py export")
    predict.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    predict.add_argument(
        "images", metavar="IMAGE", nargs="+", help="JPEG, PNG, GIF, BMP or WebP file, or directory of such"
    )
    return parser
