"""Checkpoints: checkpoints/step-<step>/ holds a TensorFlow checkpoint and state.json; the last KEEP are kept.

A checkpoint is authoritative: resuming discards everything recorded after its step. TensorFlow checks a CRC of every
tensor and index block that it reads, so a corrupt checkpoint fails to load and the one before it is used.
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
    older = [checkpoint for checkpoint in list_checkpoints(path) if checkpoint.name <= final.name]
    for checkpoint in set(list_checkpoints(path)) - set(older[-KEEP:]):  # later ones are corrupt: training went back
        shutil.rmtree(checkpoint, ignore_errors=True)


def list_checkpoints(path):
    """Returns the checkpoint directories of a run, oldest first."""
    directories = (Path(path) / "checkpoints").glob("step-*")
    return sorted(directory for directory in directories if re.fullmatch("step-[0-9]{9}", directory.name))


def step_of(checkpoint):
    return int(checkpoint.name.removeprefix("step-"))


def last_step(path):
    """Returns the step of the newest checkpoint, or 0."""
    return max(map(step_of, list_checkpoints(path)), default=0)


def read(path):
    """Reads the newest intact checkpoint without a graph; warns about corrupt ones.

    Returns:
      ({variable name: array}, the state given to `save`).

    Raises:
      UserError: no checkpoint can be used.
    """
    for checkpoint in reversed(list_checkpoints(path)):
        try:
            return _read(checkpoint)
        except PermissionError as error:
            raise UserError(f"{error.filename}: check the permissions") from None
        except (tf.errors.OpError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
            log.warning(f"{checkpoint} is corrupt, skipped: {str(error).splitlines()[0]}")
    if list_checkpoints(path) or was_evaluated(path):
        raise UserError(f"{path} has no usable checkpoint: restore {path / 'checkpoints'} from a copy")
    raise UserError(f"{path} has no checkpoint yet: continue it with {resume_command(path)}")


def _read(checkpoint):
    """Reads one checkpoint. state.json has no CRC: its step has to be that of the weights and of the directory."""
    with working_directory(checkpoint):
        reader = tf.train.load_checkpoint("model")
        values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if not state["step"] == step_of(checkpoint) == values["global_step"]:
        raise ValueError("state.json belongs to another step")
    if not isinstance(state["rows"], list):
        raise ValueError("state.json has no rows")
    return values, state


def was_evaluated(path):
    """Returns whether the run once had a checkpoint: one is saved before each row of metrics.jsonl."""
    metrics = Path(path) / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


def restore(path, saver, session):
    """Restores the newest intact checkpoint.

    Returns:
      The state given to `save`; {} if the run was stopped before its first checkpoint.

    Raises:
      UserError: no checkpoint can be used, or it does not match the graph.
    """
    if not list_checkpoints(path) and not was_evaluated(path):
        return {}
    _, state = read(path)
    with working_directory(path / "checkpoints" / f"step-{state['step']:09d}"):
        try:
            saver.restore(session, "model")
        except tf.errors.OpError:
            raise mismatch_error(path) from None
    return state


def mismatch_error(path):
    """Returns the error for a checkpoint that does not fit the network."""
    return UserError(f"the checkpoint of {path} is from another version: use the git_commit in its config.json")


@contextlib.contextmanager
def working_directory(directory):
    """Changes the working directory: TensorFlow takes brackets and asterisks in a path for a pattern."""
    previous = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(previous)
