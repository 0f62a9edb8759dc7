"""The command line of report.py; pure Python, so that `--help` and a typo are answered at once."""

from flags import Formatter, Parser


def report_parser():
    parser = Parser(
        prog="report.py",
        description="Tables and figures over seeds, from run directories.",
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or a directory of them")
    parser.add_argument("--output", metavar="DIR", default="report", help="where to write")
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS directory of the images (default: each run's own)")
    return parser
