"""A classifier leaves its run: a SavedModel that needs nothing of ours, its weights as .npz, and a manifest.

saved_model.pb, variables/   signature serving_default: images [N, 32, 32, 3] uint8, any N, to probabilities [N, 10]
                             float32, class_ids [N] int64, class_names [N] string
weights.npz                  variable name to array
manifest.json                where it comes from, its test accuracy, how it was checked, sha256 of every other file
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

import data
from analysis.run_network import RestoredRun
from analysis.statistics import log_softmax
from analysis.table import print_wrapped
from training.checkpoints import inside
from training.command import SIGNALS, UserError, graceful, shown
from training.files import naming, sha256, write_arrays, write_json
from training.labels import Label
from training.run_directory import versions

# Of a probability. The exported graph computes what the run's does, in the same precision, but other shapes may take
# other kernels, which add up in another order.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}

# Runs in a process of its own: nothing of this project is imported, as wherever the model will be served.
RELOAD = """
import sys
import numpy as np
import tensorflow as tf

classify = tf.saved_model.load(".").signatures["serving_default"]
images = np.load(sys.argv[1] + "/images.npz")["images"]
parts = [classify(images=tf.constant(images[i : i + 500])) for i in range(0, len(images), 500)]
kinds = {"probabilities": "f4", "class_ids": "i8", "class_names": "S"}
answers = {name: np.concatenate([part[name].numpy() for part in parts]).astype(kind) for name, kind in kinds.items()}
np.savez(sys.argv[1] + "/answers.npz", **answers)
"""


def main(args):
    """Exports one classifier of a run."""
    output = Path(args.output)
    check_output(output)
    run = RestoredRun(args.run_dir, args.data_dir)
    label, reason = run.choose(args.weights, args.decay, args.batch_stats)
    others = "--weights, --decay and --batch_stats export another"
    print_wrapped(f"exporting {label.words} ({label}) of {shown(run.path)} {run.after()}: {reason}; {others}")
    manifest = write(run, label, output)
    accuracy, count = manifest["test_accuracy"], manifest["verified"]["test_images"]
    print_wrapped(
        f"{shown(output)}: test accuracy {100 * accuracy:.2f}%; reloaded in a process of its own, its predictions on "
        f"{count} test images are the run's"
    )


def exists(output):
    return UserError(f"{output} exists already: choose another --output")


def check_output(output):
    """Refuses what is there already, but for an empty directory, and what has no parent directory."""
    empty = output.is_dir() and not any(output.iterdir()) and not output.samefile(".")
    if output.is_symlink() or (output.exists() and not empty):
        raise exists(output)
    if os.path.ismount(output):
        raise UserError(
            f"{output} is a mount point: choose a directory in it, --output {shlex.quote(f'{output}/model')}"
        )
    if output.parent.exists() and not output.parent.is_dir():
        raise UserError(f"{output.parent} is a file: choose another --output")
    if not output.parent.is_dir():
        create = f"mkdir -p {shlex.quote(str(output.parent))}"
        raise UserError(f"{output.parent} is not a directory: create it ({create}) or choose another --output")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UserError(f"{output.parent} cannot be written: get access or choose another --output")


def save_model(run, directory):
    """Writes the network of a RestoredRun, as it is now, as a SavedModel with the one signature serving_default."""
    with run.network.graph.as_default():  # v1's own builder calls what v2 deprecates
        ids = tf.argmax(run.outputs, 1)
        names = tf.gather(tf.constant(data.class_names(run.flags.dataset)), ids)
        outputs = {"probabilities": tf.nn.softmax(run.outputs), "class_ids": ids, "class_names": names}
        signature = tf.saved_model.predict_signature_def({"images": run.images}, outputs)
        builder = tf.saved_model.Builder(directory)
        builder.add_meta_graph_and_variables(
            run.network.session,
            [tf.saved_model.tag_constants.SERVING],
            {tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: signature},
            saver=tf.train.Saver(run.network.variables),
            strip_default_attrs=True,
        )
        builder.save()


def write(run, label, output, save=save_model):
    """Exports a classifier beside the path `output`, checks what was written, and renames it; returns the manifest.

    Raises:
      UserError: the export does not predict what the run does, or a signal came; nothing is left of it.
    """
    logits, test, classes = run.test_logits(label), run.dataset.test, data.class_names(run.flags.dataset)
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    with graceful() as stop:
        beside.mkdir()  # fails where there is such a directory, which is not ours
        try:
            with naming(output), inside(beside):
                save(run, ".")
            answers = reload(beside, test.images, stop)
            manifest = {
                "classifier": str(label),
                "weights": label.weights,
                "decay": label.decay,
                "batch_stats": label.statistics,
                "classes": classes,
                "test_accuracy": float(np.mean(logits.argmax(1) == test.labels)),
                "data": run.dataset.source,
                "step": run.state["step"],
                "made": run.after(),
                "versions": versions(),
                "run": run.config,
                "verified": verify(answers, logits, classes, TOLERANCE[run.precision]),
            }
            write_arrays(beside / "weights.npz", run.network.values())
            write_json(beside / "manifest.json", manifest | {"sha256": digests(beside)})
            try:
                beside.rename(output)
            except OSError:
                if os.path.lexists(output):  # since the beginning
                    raise exists(output) from None
                raise
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return manifest


def reload(directory, images, stop):
    """The answers of a SavedModel, by output name, from a process that imports TensorFlow and NumPy only.

    Raises:
      UserError: it does not load, or a signal came.
    """
    with tempfile.TemporaryDirectory(dir=directory) as scratch:  # where there has to be room
        write_arrays(Path(scratch) / "images.npz", {"images": images})
        process = subprocess.Popen(
            [sys.executable, *["-E"] * sys.flags.ignore_environment, "-c", RELOAD, scratch],
            cwd=directory,  # away from this project's modules
            env={**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"},  # this process holds memory of the GPU too
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process
        )
        while process.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _, stderr = process.communicate(timeout=0.1)
            if stop.signal:
                process.kill()
        if stop.signal:
            raise UserError(f"stopped by {SIGNALS[stop.signal]}: nothing was exported", 128 + stop.signal)
        if process.returncode:
            reason = (stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
            raise UserError(f"the exported model does not load by itself ({reason}): nothing was exported")
        with np.load(f"{scratch}/answers.npz", allow_pickle=False) as answers:
            return dict(answers)


def verify(answers, logits, classes, tolerance):
    """Compares the answers of a reloaded SavedModel with the run's logits [N, 10]; returns what the manifest says.

    Raises:
      UserError: a class, a name or, by more than the tolerance, a probability differs.
    """
    difference = np.abs(answers["probabilities"] - np.exp(log_softmax(logits))).max()
    flips = int((answers["class_ids"] != logits.argmax(1)).sum())
    misnamed = (answers["class_names"] != np.array(classes, "S")[answers["class_ids"]]).any()
    if flips or misnamed or not difference <= tolerance:  # a NaN is no agreement either
        raise UserError(
            f"the exported model does not predict what the run does ({flips} of {len(logits)} test images in another "
            f"class, probabilities up to {difference:.2g} apart, {tolerance:g} allowed): nothing was exported"
        )
    return {"test_images": len(logits), "largest_difference": float(difference), "tolerance": tolerance}


def digests(directory):
    """The sha256 of every file under a directory but its manifest, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(directory)): sha256(path) for path in files}


def read_manifest(directory):
    """The manifest of an exported classifier; a UserError where its files are not all as they were written."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        Label.parse(manifest["classifier"])
        names = len(manifest["classes"]) == len(data.CLASSES) and all(isinstance(it, str) for it in manifest["classes"])
        whole = names and "made" in manifest and manifest["sha256"].items() <= digests(directory).items()
    except PermissionError as error:
        raise UserError(f"{error.filename} cannot be read: get access") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise UserError(f"{directory} is not as evaluate.py export writes it: name another --model, or export again")
    return manifest
