"""Command lines of evaluate.py and report.py. Pure Python, like training.flags."""

import argparse

from training.flags import Formatter, Parser, decay, path, std
from training.labels import BATCH_STATS


def evaluate_parser():
    parser = Parser(prog="evaluate.py", description="Evaluate, export or apply a trained run.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False, formatter_class=Formatter)
        if name != "predict":
            command.add_argument("--run_dir", metavar="DIR", type=path, required=True, help="run of train.py")
        command.add_argument("--data_dir", metavar="DIR", type=path, help="TFDS directory, if the data has moved")
        if name in ("export", "predict"):
            default = "(default: best on the validation images, or else the primary average's)"
            command.add_argument("--decay", metavar="DECAY", type=decay, help=f"decay of the average {default}")
            command.add_argument("--batch_stats", choices=BATCH_STATS, help=f"batch statistics {default}")
        return command

    table = add("table", "compare every classifier of a run on the test set")
    table.add_argument("--format", choices=["text", "json", "csv"], default="text")

    posthoc = add("posthoc", "make power-function averages of any length from the snapshots of a run")
    posthoc.add_argument("--stds", metavar="STD", nargs="+", type=std, help="relative stds to make and test")
    basis = "tracked stds to make them from (default: all)"
    posthoc.add_argument("--basis", metavar="STD", nargs="+", type=std, help=basis)

    export = add("export", "write one classifier as a SavedModel that works without this project")
    export.add_argument("--weights", choices=["raw", "ema"], default="ema", help="weights of the classifier")
    export.add_argument("--output", metavar="DIR", type=path, required=True, help="new directory to write")

    predict = add("predict", "classify image files with raw and EMA weights, or with an exported classifier")
    source = predict.add_mutually_exclusive_group(required=True)
    source.add_argument("--run_dir", metavar="DIR", type=path, help="run of train.py")
    source.add_argument("--model", metavar="DIR", type=path, help="output of evaluate.py export")
    predict.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    images = "image file (JPEG, PNG, GIF, BMP, WebP) or directory of them; centre-cropped and scaled"
    predict.add_argument("images", metavar="IMAGE", type=nonempty, nargs="+", help=images)
    return parser


def nonempty(text):
    """Refuses "", which a shell passes for an unset variable; as a path it would mean the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


def report_parser():
    description = "Tables and figures over seeds, from run directories."
    parser = Parser(prog="report.py", description=description, formatter_class=Formatter, allow_abbrev=False)
    add = parser.add_argument
    add("runs", metavar="RUN", type=nonempty, nargs="+", help="run directory, or a directory with runs at any depth")
    add("--output", metavar="DIR", type=path, default="report", help="where to write")
    add("--data_dir", metavar="DIR", type=path, help="TFDS directory of the images (default: each run's own)")
    return parser
