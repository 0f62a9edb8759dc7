"""Commands for one finished run.

python evaluate.py table --run_dir runs/20260101-120000      # every classifier, with intervals and exact tests
python evaluate.py posthoc --run_dir runs/20260101-120000    # averages of other lengths, made from snapshots
python evaluate.py export --run_dir runs/20260101-120000 --output model    # a SavedModel of the EMA classifier
python evaluate.py predict --run_dir runs/20260101-120000 cat.jpg photos   # raw and EMA side by side
"""

if __name__ == "__main__":
    import sys
    from os.path import dirname, realpath

    sys.path.insert(0, dirname(realpath(__file__)))  # PYTHONSAFEPATH=1 leaves it out
    from analysis import flags
    from training import cli

    cli.run_cli("evaluate", flags.evaluate_parser().parse_args)

import tensorflow.compat.v1 as tf

from analysis import evaluation_table, export, posthoc, predict

tf.disable_eager_execution()
COMMANDS = {"table": evaluation_table.main, "posthoc": posthoc.main, "export": export.main, "predict": predict.main}


def main(arguments):
    """Runs the sub-command."""
    COMMANDS[arguments.command](arguments)
