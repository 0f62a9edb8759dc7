"""The checkpoints of a run: weights, batch statistics, shadows, Adam slots, step and rows, with digests.

checkpoints/step-<step>/    the last KEEP of them, each with SHA256SUMS, which `sha256sum -c` checks too

A checkpoint is the truth about a run: on resumption everything that tells of later steps is taken back.
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import tensorflow.compat.v1 as tf

from training.command import UserError, resume_command
from training.files import flush_to_disk, naming, sha256, write_json, write_whole
from training.log import log

KEEP = 3
SUMS = "SHA256SUMS"
REPLACED = ".replaced"  # a checkpoint whose successor of the same step is being put into its place


def save(path, saver, session, state):
    """Writes checkpoints/step-<step>: beside first, with digests, flushed to the disk, and renamed when it is whole.

    A whole checkpoint of the same step with the same rows is left alone, because the variables are a pure function of
    the step. Of the others the last KEEP stay; those of later steps go, because damage made the run go back behind
    them.

    Args:
      path: the run directory.
      saver: tf.train.Saver of everything that the run must not lose.
      state: JSON-able dict with at least `step` and `rows`, kept with the checkpoint.

    Raises:
      OSError: it could not be written; those before it are untouched.
    """
    final = path / "checkpoints" / f"step-{state['step']:09d}"
    if final.exists() and damage(final) is None and _state(final)["rows"] == state["rows"]:
        return
    beside = final.with_name(".new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with naming(final):
            final.parent.mkdir(exist_ok=True)
            beside.mkdir()
            with inside(beside):  # by its path, TensorFlow would make a run that is taken away meanwhile again
                saver.save(session, "model", write_meta_graph=False, write_state=False)
            write_json(beside / "state.json", state)
            write_whole(beside / SUMS, _sums(beside).encode())
            for file in [*beside.iterdir(), beside]:
                flush_to_disk(file)
            if final.exists():
                shutil.move(final, final.with_name(REPLACED))  # an overlay cannot rename what its lower layer has
            beside.rename(final)
            flush_to_disk(final.parent)
            shutil.rmtree(final.with_name(REPLACED), ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # on a full disk every byte counts
    kept = [checkpoint for checkpoint in found(path) if checkpoint.name <= final.name][-KEEP:]
    for other in set(found(path)) - set(kept):
        shutil.rmtree(other, ignore_errors=True)


def found(path):
    """The checkpoint directories of a run, oldest first."""
    folder = Path(path) / "checkpoints"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(folder / name for name in names if re.fullmatch("step-[0-9]{9}", name))  # not a copy beside them


def put_back(path):
    """Puts a checkpoint back into its place from which a process that was killed had just taken it, if there is one."""
    replaced = Path(path) / "checkpoints" / REPLACED
    if not replaced.exists():
        return
    if damage(replaced) is None and damage(place := replaced.with_name(f"step-{_state(replaced)['step']:09d}")):
        shutil.rmtree(place, ignore_errors=True)
        replaced.rename(place)
    shutil.rmtree(replaced, ignore_errors=True)


def _state(checkpoint):
    return json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))


def last_step(path):
    """The step of a run's newest checkpoint, 0 where there is none."""
    return max((int(checkpoint.name.removeprefix("step-")) for checkpoint in found(path)), default=0)


def damage(checkpoint):
    """What is wrong with a checkpoint, in words; None where every file is what was written.

    Raises:
      OSError: it cannot be read, and may be whole.
    """
    try:
        written, found = (checkpoint / SUMS).read_text(encoding="utf-8"), _sums(checkpoint)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError) as error:
        return str(error)
    if written == found:
        return None
    lines = set(written.splitlines()) ^ set(found.splitlines())
    differing = sorted({line.split()[-1] for line in lines if line.strip()})
    return f"not as they were written: {', '.join(differing) or SUMS}"


def restore(path, saver, session):
    """Restores the newest checkpoint that is whole.

    Returns:
      The state given to `save`.

    Raises:
      UserError: there is none, or it was not written by such a saver.
    """
    checkpoint = newest_whole(path)
    with inside(checkpoint):
        try:
            saver.restore(session, "model")
        except tf.errors.OpError:
            raise of_another(path) from None
    return _state(checkpoint)


def read(path):
    """The newest checkpoint that is whole, without a graph.

    Returns:
      (values, state): variable name to array, and the state given to `save`.

    Raises:
      UserError: there is none.
    """
    checkpoint = newest_whole(path)
    with inside(checkpoint):
        reader = tf.train.load_checkpoint("model")
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}, _state(checkpoint)


@contextlib.contextmanager
def inside(directory):
    """Within it, the directory is the current one: TensorFlow takes brackets and asterisks in a path for a pattern."""
    before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # one may be in a directory that one must not list
    try:
        os.chdir(directory)
        yield
    finally:
        os.fchdir(before)
        os.close(before)


def newest_whole(path):
    """The newest checkpoint that is whole; says so when it had to pass over a damaged one.

    Raises:
      UserError: there is none.
    """
    for checkpoint in reversed(found(path)):
        reason = damage(checkpoint)
        if reason is None:
            return checkpoint
        log.warning(f"{checkpoint} is damaged ({reason}): passing over it")
    raise unusable(path)


def of_another(path):
    """The error of a run whose checkpoint does not fit its network."""
    return UserError(
        f"the checkpoint of {path} is whole, but was written with other flags or by another version of this program: "
        f"look at {path / 'config.json'}, and use the version of its git_commit"
    )


def unusable(path):
    """The error of a run without a checkpoint that is whole."""
    if not found(path) and not was_evaluated(path):
        return UserError(f"{path} holds no checkpoint yet: let {resume_command(path)} go on first")
    what = "no usable checkpoint, every one is damaged" if found(path) else "evaluations, but no checkpoint"
    remedy = f"restore {path / 'checkpoints'} from a copy, or start anew in another --run_dir"
    return UserError(f"{path} holds {what}: {remedy}")


def was_evaluated(path):
    """Whether a run had a checkpoint once: an evaluation is written down after it was saved."""
    metrics = path / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


def _sums(directory):
    """A line "<sha256>  <name>" for each file of a checkpoint, as sha256sum prints them; shares leave others there."""
    model = [file for file in directory.glob("model.*") if re.fullmatch(r"model\.(index|data-\d+-of-\d+)", file.name)]
    files = sorted([*model, directory / "state.json"])
    return "".join(f"{sha256(file)}  {file.name}\n" for file in files)
