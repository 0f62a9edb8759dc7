"""Checkpoints: checkpoints/step-<step>/ holds a TensorFlow checkpoint and state.json; the last KEEP are kept.

A checkpoint is authoritative: resuming discards everything recorded after its step. TensorFlow checks a CRC of every
tensor and index block that it reads, so a damaged checkpoint fails to load and the one before it is used.
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import tensorflow.compat.v1 as tf

from training.cli import UserError, resume_command
from training.files import flush_to_disk, name_in_errors, write_json
from training.log import log

KEEP = 3


def save(path, saver, session, state):
    """Writes checkpoints/step-<step> atomically and deletes all but the last KEEP.

    Args:
      path: the run directory.
      saver: tf.train.Saver of everything that must be restored.
      state: JSON-able dict with at least `step` and `rows`.

    Raises:
      OSError: the checkpoint could not be written; earlier ones are untouched.
    """
    final = path / "checkpoints" / f"step-{state['step']:09d}"
    temporary = final.with_name(".new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with name_in_errors(final):
            temporary.mkdir(parents=True)
            with working_directory(temporary):
                saver.save(session, "model", write_meta_graph=False, write_state=False)
            write_json(temporary / "state.json", state)
            for file in [*temporary.iterdir(), temporary]:
                flush_to_disk(file)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            flush_to_disk(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # a full disk needs the space
    for other in list_checkpoints(path)[:-KEEP] + [one for one in list_checkpoints(path) if one.name > final.name]:
        shutil.rmtree(other, ignore_errors=True)


def list_checkpoints(path):
    """The checkpoint directories of a run, oldest first."""
    return sorted(d for d in (Path(path) / "checkpoints").glob("step-*") if re.fullmatch("step-[0-9]{9}", d.name))


def last_step(path):
    """The step of the newest checkpoint, or 0."""
    return max((int(checkpoint.name.removeprefix("step-")) for checkpoint in list_checkpoints(path)), default=0)


def read(path):
    """Loads the newest undamaged checkpoint without a graph: ({variable name: array}, state)."""
    for checkpoint in reversed(list_checkpoints(path)):
        try:
            return _load(checkpoint)
        except PermissionError as error:
            raise UserError(f"{error.filename}: permission denied, check the permissions") from None
        except (tf.errors.OpError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            log.warning(f"skipping damaged checkpoint {checkpoint}: {str(error).splitlines()[0]}")
    if was_evaluated(path) and not list_checkpoints(path):
        raise UserError(f"{path} has evaluations but no checkpoint: restore {path / 'checkpoints'} or start a new run")
    raise UserError(f"{path} has no usable checkpoint: continue it with {resume_command(path)} or start a new run")


def _load(checkpoint):
    """({variable name: array}, state) of a checkpoint directory; state.json, which has no CRC, is cross-checked."""
    with working_directory(checkpoint):
        reader = tf.train.load_checkpoint("model")
        values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if not int(checkpoint.name.removeprefix("step-")) == state["step"] == values["global_step"]:
        raise ValueError("state.json, the weights and the directory's name differ in the step")
    if not isinstance(state["rows"], list):
        raise ValueError("state.json has no rows")
    return values, state


def was_evaluated(path):
    """Whether metrics.jsonl has a row; every row was preceded by a checkpoint."""
    metrics = Path(path) / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


def restore(path, saver, session):
    """Restores the newest undamaged checkpoint; returns its state."""
    _, state = read(path)
    with working_directory(path / "checkpoints" / f"step-{state['step']:09d}"):
        try:
            saver.restore(session, "model")
        except tf.errors.OpError:
            raise mismatch_error(path) from None
    return state


def mismatch_error(path):
    return UserError(f"the checkpoint of {path} does not match: other flags or version (see git_commit in config.json)")


@contextlib.contextmanager
def working_directory(directory):
    """Changes the working directory: TensorFlow takes brackets and asterisks in a path for a pattern."""
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)
