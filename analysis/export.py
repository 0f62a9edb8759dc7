"""A classifier leaves its run: a SavedModel that needs nothing of ours, its weights as .npz, and a manifest.

saved_model.pb, variables/   signature serving_default: images [N, 32, 32, 3] uint8, any N, to probabilities [N, 10]
                             float32, class_ids [N] int64, class_names [N] string
weights.npz                  variable name to array
manifest.json                where it comes from, its test accuracy, how it was checked, sha256 of every other file
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

import data
from analysis.evaluation_table import print_wrapped
from analysis.restored_run import RestoredRun
from analysis.statistics import log_softmax
from training.checkpoints import working_directory
from training.cli import UserError, catch_signals, display_path
from training.files import naming, sha256, write_arrays, write_json
from training.labels import Label
from training.run_directory import versions

# Of a probability. The exported graph computes what the run's does, in the same precision, but other shapes may take
# other kernels, which add up in another order.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def main(args):
    """Exports one classifier of a run."""
    output = Path(args.output)
    check_output(output)
    run = RestoredRun(args.run_dir, args.data_dir)
    label, reason = run.choose(args.weights, args.decay, args.batch_stats)
    others = "--weights, --decay and --batch_stats export another"
    print_wrapped(
        f"exporting {label.display_name} ({label}) of {display_path(run.path)} {run.after()}: {reason}; {others}"
    )
    manifest = write(run, label, output)
    accuracy, count = manifest["test_accuracy"], manifest["verified"]["test_images"]
    print_wrapped(
        f"{display_path(output)}: test accuracy {100 * accuracy:.2f}%; reloaded in a process of its own, its predictions on "
        f"{count} test images are the run's"
    )


def check_output(output):
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} already exists: choose another --output")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent} is not a directory: create it or choose another --output")


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
    with catch_signals():
        beside.mkdir()  # fails where there is such a directory, which is not ours
        try:
            with naming(output), working_directory(beside):
                save(run, ".")
            answers = reload(beside, test.images)
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
            beside.rename(output)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return manifest


def reload(directory, images):
    """The outputs of a SavedModel for all images, by name, loaded with TensorFlow alone into a graph of its own."""
    with tf.Graph().as_default(), tf.Session() as session, working_directory(directory):
        signature = tf.saved_model.load(session, ["serve"], ".").signature_def["serving_default"]
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        batches = np.array_split(images, range(data.EVAL_BATCH_SIZE, len(images), data.EVAL_BATCH_SIZE))
        parts = [session.run(outputs, {signature.inputs["images"].name: batch}) for batch in batches]
    return {name: np.concatenate([part[name] for part in parts]) for name in outputs}


def verify(answers, logits, classes, tolerance):
    """Compares the answers of a reloaded SavedModel with the run's logits [N, 10]; returns what the manifest says.

    Raises:
      UserError: a class, a name or, by more than the tolerance, a probability differs.
    """
    difference = np.abs(answers["probabilities"] - np.exp(log_softmax(logits))).max()
    flips = int((answers["class_ids"] != logits.argmax(1)).sum())
    misnamed = (answers["class_names"].astype("S") != np.array(classes, "S")[answers["class_ids"]]).any()
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
