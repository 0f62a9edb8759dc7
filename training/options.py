"""The flags of train.py, and what all command lines share. Pure Python: `--help` and a typo are answered at once."""

import argparse
import math
import re

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
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    _add_averages(parser.add_argument_group("exponential moving average"))
    _add_system(parser.add_argument_group("system"))
    return parser


def _add_data(group):
    add = group.add_argument
    add("--dataset", choices=["cifar10", "synthetic"], default="cifar10", help="images; synthetic ones need no network")
    add("--data_dir", metavar="DIR", help="TFDS directory (default: TFDS's own, so TFDS_DATA_DIR works)")
    add("--train_size", metavar="N", type=count, help="number of training images, the first ones (default: all)")
    add("--test_size", metavar="N", type=count, help="number of test images, the first ones (default: all)")
    add(
        "--validation_size",
        metavar="N",
        type=number(int, 0),
        default=0,
        help="number of training images, the last ones, that are held out and evaluated like the test set",
    )
    add(
        "--label_noise",
        metavar="SHARE",
        type=number(float, 0, 1),
        default=0.0,
        help="share of the training labels that are replaced by another class",
    )
    add("--augment", action="store_true", help="random flips and shifts of the training images")


def _add_model(group):
    add = group.add_argument
    add("--width", type=number(float, 0, 64, above=True), default=1.0, help="factor of the channels of every layer")
    add("--dropout", type=number(float, 0, 1), default=0.5, help="rate, after each max pool")


def _add_training(group):
    add = group.add_argument
    add("--epochs", type=count, default=20, help="passes over the training images")
    add("--batch_size", type=count, default=64, help="images in a step")
    add("--learning_rate", type=number(float, 0, above=True), default=1e-3, help="rate of Adam")
    add(
        "--lr_cooldown",
        metavar="EPOCHS",
        type=number(int, 0),
        default=0,
        help="last epochs, over which the learning rate falls linearly to 0",
    )
    add("--adam_beta1", type=number(float, 0, 1), default=0.5, help="decay of Adam's first moment")
    add(
        "--label_smoothing",
        metavar="SHARE",
        type=number(float, 0, 1),
        default=0.0,
        help="share of each target that is spread evenly over the classes",
    )
    seeds = group.add_mutually_exclusive_group()
    seed = number(int, 0, 2**31)
    seeds.add_argument("--seed", type=seed, default=0, help="random seed of weights, data order, dropout and noise")
    seeds.add_argument(
        "--seeds",
        metavar="SEED",
        nargs="+",
        type=seed,
        default=argparse.SUPPRESS,  # a run has one seed: the other runs know nothing of this flag
        help="seeds of several runs, made one after the other in RUN_DIR/seed-<seed>, then report.py over them",
    )


def _add_averages(group):
    add = group.add_argument
    decays = group.add_mutually_exclusive_group()
    decays.add_argument(
        "--ema_decay",
        metavar="DECAY",
        nargs="+",
        type=decay,
        help="decay of the shadow weights, per step; several are tracked side by side, the first is the primary one "
        f"(default: {DEFAULT_DECAY})",
    )
    decays.add_argument(
        "--ema_horizon",
        metavar="EPOCHS",
        nargs="+",
        type=number(float, 0, above=True),
        help="epochs of images that each average covers, in place of decays: 1 / (1 - decay) steps",
    )
    add(
        "--ema_start",
        choices=["initial", "warmup", "unbiased"],
        default="initial",
        help="start of the shadows; initial: as the initial weights, the guide's; warmup: min(decay, (1 + t) / "
        "(10 + t)); unbiased: the initial weights are removed exactly",
    )
    add("--ema_every", metavar="K", type=count, default=1, help="steps between two updates, each with decay^K")
    add(
        "--ema_batch_stats",
        metavar="POLICY",
        nargs="+",
        choices=["raw", "averaged", "recomputed"],
        default=["raw"],
        help="batch statistics that the EMA weights are evaluated with, any of: raw, the raw network's, the guide's; "
        "averaged, averaged like the weights; recomputed, over training images with the EMA weights",
    )
    add(
        "--recompute_size",
        metavar="N",
        type=count,
        default=5000,
        help="training images that statistics are recomputed over",
    )
    add("--recompute_dropout", action="store_true", help="dropout while statistics are recomputed")
    add(
        "--ema_power",
        metavar="WIDTH",
        nargs="+",
        type=width,
        help="relative widths of power-function averages to track too, for evaluate.py posthoc",
    )
    add(
        "--snapshots",
        metavar="N",
        type=count,
        default=8,
        help="snapshots of the power-function averages in an epoch, of 4 bytes a parameter and width each",
    )


def _add_system(group):
    add = group.add_argument
    add("--run_dir", metavar="DIR", help="directory that everything is written into (default: runs/<date>-<time>)")
    add("--resume", action="store_true", help="continuation of the run in --run_dir, with its own flags")
    add("--eval_every", metavar="EPOCHS", type=count, default=1, help="epochs between evaluations")
    add(
        "--checkpoint_every",
        metavar="N",
        type=Interval,
        default="10m",
        help="steps (500) or minutes (10m) between checkpoints; every evaluation saves one too",
    )
    add("--device", choices=["auto", "cpu", "gpu"], default="auto", help="device; auto takes a GPU if there is one")
    add(
        "--strategy",
        choices=["none", "mirrored", "multiworker"],
        default="none",
        help="data-parallel training; mirrored: on all GPUs of this machine, or on --devices CPUs; multiworker: on "
        "those of every worker in the environment variable TF_CONFIG",
    )
    add("--devices", metavar="N", type=count, help="devices of this machine that --strategy uses (default: all GPUs)")
    add(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="precision of the convolutions; auto takes bfloat16 where a measurement finds it faster",
    )
    add("--xla", choices=["auto", "on", "off"], default="auto", help="compilation of the training loop; auto: on a GPU")
    add(
        "--steps_per_run",
        metavar="K",
        type=count,
        help="steps in one session.run (default: 10 on a CPU, 100 on a GPU)",
    )


def decay(text):
    """Plain digits, because the text names variables; below 1 in float32 too, or the shadow would never move."""
    value = number(float, 0, 1)(text)
    if not re.fullmatch(r"[0-9]*\.?[0-9]*([eE]-?[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not written as a plain number, such as 0.998")
    if value >= MAX_DECAY:
        raise argparse.ArgumentTypeError(f"{text} is 1 in float32: the average would never move")
    return Decay(text)


def width(text):
    """A relative width, to the digits that name its average."""
    return float(f"{number(float, 1e-6, 0.28)(text):g}")


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
