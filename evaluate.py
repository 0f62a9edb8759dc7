"""What a trained run is worth: every classifier compared, other averages made afterwards, one exported, images named.

python evaluate.py table --run_dir runs/20260101-120000      # accuracy with intervals, calibration, exact tests
python evaluate.py posthoc --run_dir runs/20260101-120000    # test accuracy against the width of the average
python evaluate.py export --run_dir runs/20260101-120000 --output model    # a SavedModel of the EMA classifier
python evaluate.py predict --run_dir runs/20260101-120000 cat.jpg photos   # raw and EMA side by side
"""

from analysis.options import build_evaluate_parser
from training.errors import or_exit, start
from training.stderr import import_tensorflow

if __name__ == "__main__":
    ARGS = start(build_evaluate_parser().parse_args)  # before TensorFlow's import, which takes seconds
    import_tensorflow()

import tensorflow.compat.v1 as tf

from analysis import export, posthoc, predict, table

COMMANDS = {"table": table.main, "posthoc": posthoc.main, "export": export.main, "predict": predict.main}

if __name__ == "__main__":
    tf.disable_eager_execution()
    or_exit(COMMANDS[ARGS.command], ARGS)
