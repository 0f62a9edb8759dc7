"""The command lines of evaluate.py and report.py. Pure Python, as training.flags."""

import argparse

from training.flags import Formatter, Parser, decay, path, width


def evaluate_parser():
    parser = Parser(
        prog="evaluate.py", description="What a run of train.py is worth; its flags are known.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, text):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False, formatter_class=Formatter)
        if name != "predict":
            command.add_argument("--run_dir", metavar="DIR", type=path, required=True, help="of a run of train.py")
        command.add_argument("--data_dir", metavar="DIR", type=path, help="TFDS directory, if the data has moved since")
        if name in ("export", "predict"):
            default = "(default: of the average that is best on the validation images, else of the primary one)"
            policies = ["raw", "averaged", "recomputed"]
            command.add_argument("--decay", metavar="DECAY", type=decay, help=f"of the average {default}")
            command.add_argument("--batch_stats", choices=policies, help=f"batch statistics it works with {default}")
        return command

    table = add("table", "compare every classifier of a run on the test set")
    table.add_argument("--format", choices=["text", "json", "csv"], default="text")

    posthoc = add("posthoc", "make power-function averages of any width from a run's snapshots")
    posthoc.add_argument("--widths", metavar="WIDTH", nargs="+", type=width, help="relative widths to make and test")
    posthoc.add_argument(
        "--basis", metavar="WIDTH", nargs="+", type=width, help="tracked widths to make them from (default: all)"
    )

    export = add("export", "write one classifier as a SavedModel that needs nothing of this project")
    export.add_argument("--weights", choices=["raw", "ema"], default="ema", help="of the classifier")
    export.add_argument("--output", metavar="DIR", type=path, required=True, help="new directory to write")

    predict = add("predict", "classify image files by raw and EMA weights, or by an exported classifier")
    source = predict.add_mutually_exclusive_group(required=True)
    source.add_argument("--run_dir", metavar="DIR", type=path, help="of a run of train.py")
    source.add_argument("--model", metavar="DIR", type=path, help="written by evaluate.py export")
    predict.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    formats = "JPEG, PNG, GIF, BMP or WebP, or directory of such; of each the central square, scaled to 32 x 32"
    predict.add_argument("images", metavar="IMAGE", type=nonempty, nargs="+", help=formats)
    return parser


def nonempty(text):
    """A name in any encoding; an empty one, of a shell's variable that is not set, would be the whole directory."""
    if not text:
        raise argparse.ArgumentTypeError("an empty name is no path")
    return text


def report_parser():
    description = "Tables and figures over seeds, from run directories."
    parser = Parser(prog="report.py", description=description, formatter_class=Formatter, allow_abbrev=False)
    add = parser.add_argument
    add("runs", metavar="RUN", type=nonempty, nargs="+", help="a run directory, or a directory of them, however deep")
    add("--output", metavar="DIR", type=path, default="report", help="where to write")
    add("--data_dir", metavar="DIR", type=path, help="TFDS directory of the images (default: each run's own)")
    return parser
