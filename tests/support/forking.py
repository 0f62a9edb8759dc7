"""Scripts of this project as processes that are forked after TensorFlow's import, which takes longer than a tiny run.

`python -m support.forking` serves jobs from stdin, one JSON object a line, and answers each with a line when it ended:

    {"script": "train.py", "argv": [...], "before": "Python source", "stdout": "file", "stderr": "file"}

The source in `before` runs first, in the forked process alone: it may set limits, or patch a module to fail.
"""

import json
import os
import runpy
import sys
import traceback

from support.commands import ROOT


def run(script, argv, stdout, stderr, before=lambda: None):
    """`python <script> <argv>`, its output appended to two files.

    Returns:
      The exit status, or minus the number of the signal that ended it, as subprocess has it.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor, file in ((1, stdout), (2, stderr)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        before()
        sys.argv = [script, *argv]
        runpy.run_path(str(ROOT / script), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve():
    import tensorflow as tf

    assert tf.__version__
    for line in sys.stdin:
        job = json.loads(line)
        source = compile(job["before"], "before", "exec")
        before = lambda source=source: exec(source, {"__name__": "before"})  # noqa: E731
        print(run(job["script"], job["argv"], job["stdout"], job["stderr"], before), flush=True)


if __name__ == "__main__":
    serve()
