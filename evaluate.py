"""What a trained run is worth: every classifier compared, other averages made afterwards, one exported, images named.

python evaluate.py table --run_dir runs/20260101-120000      # accuracy with intervals, calibration, exact tests
python evaluate.py posthoc --run_dir runs/20260101-120000    # test accuracy against the width of the average
python evaluate.py export --run_dir runs/20260101-120000 --output model    # a SavedModel of the EMA classifier
python evaluate.py predict --run_dir runs/20260101-120000 cat.jpg photos   # raw and EMA side by side
"""

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(realpath(__file__)))  # which PYTHONSAFEPATH keeps out

    from analysis import flags
    from training import cli

    cli.run_cli("evaluate", flags.evaluate_parser().parse_args)

import tensorflow.compat.v1 as tf

from analysis import export, posthoc, predict, table

tf.disable_eager_execution()

COMMANDS = {"table": table.main, "posthoc": posthoc.main, "export": export.main, "predict": predict.main}


def main(arguments):
    """Runs the sub-command."""
    COMMANDS[arguments.command](arguments)
