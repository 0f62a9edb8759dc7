"""Exports one classifier of a run as a SavedModel that works without this project.

saved_model.pb, variables/   signature serving_default: images [N, H, W, C] uint8, any N, to probabilities [N, K]
                             float32, class_ids [N] int64, class_names [N] string
weights.npz                  variable name to array
manifest.json                origin, test accuracy, verification, sha256 of every other file
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

import data
from analysis.formatting import print_wrapped
from analysis.restored_run import RestoredRun
from analysis.run_files import READ_ERRORS
from analysis.statistics import log_softmax
from training import device
from training.checkpoints import working_directory
from training.cli import SIGNALS, UserError, catch_signals, display_path
from training.files import name_in_errors, sha256, write_arrays, write_json
from training.labels import Label
from training.run_directory import versions

# Allowed difference of a probability: other batch shapes may use kernels that sum in another order.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def main(args):
    """Exports one classifier of a run."""
    output = Path(args.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} already exists: choose another --output")
    if not output.parent.is_dir():
        raise UserError(f"{output.parent} is not a directory: create it or choose another --output")
    run = RestoredRun(args.run_dir, args.data_dir)
    label, reason = run.choose(args.weights, args.decay, args.batch_stats)
    source = f"{label.display_name} ({label}) of {display_path(run.path)} {run.describe_step()}"
    print_wrapped(f"exporting {source}: {reason}; --weights, --decay and --batch_stats choose another")
    manifest = write(run, label, output)
    verified = f"reloaded, it makes the same predictions on {manifest['verified']['test_images']} test images"
    print_wrapped(f"{display_path(output)}: test accuracy {100 * manifest['test_accuracy']:.2f}%; {verified}")


def write(run, label, output):
    """Exports a classifier to a temporary directory, verifies it, renames it to `output` and returns the manifest.

    Nothing is left behind if it fails; UserError if it predicts something else than the run, or a signal came.
    """
    logits, test = run.test_logits(label), run.dataset.test
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    with catch_signals() as stop, name_in_errors(output):
        temporary.mkdir()
        try:
            save_model(run, temporary)
            outputs = ExportedModel(temporary).predict(test.images)
            manifest = {
                "classifier": str(label),
                "weights": label.weights,
                "decay": label.decay,
                "batch_stats": label.statistics,
                "classes": list(run.class_names),
                "test_accuracy": float(np.mean(logits.argmax(1) == test.labels)),
                "data": run.dataset.source,
                "step": run.state["step"],
                "made": run.describe_step(),
                "versions": versions(),
                "run": run.config,
                "verified": verify(outputs, logits, run.class_names, TOLERANCE[run.precision]),
            }
            write_arrays(temporary / "weights.npz", run.network.values())
            write_json(temporary / "manifest.json", manifest | {"sha256": digests(temporary)})
            if stop.signal:
                raise UserError(f"stopped by {SIGNALS[stop.signal]}: nothing was exported", 128 + stop.signal)
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def save_model(run, directory):
    """Writes the network of a RestoredRun, with its current values, as a SavedModel with one signature."""
    with run.network.graph.as_default(), working_directory(directory):
        class_ids = tf.argmax(run.outputs, 1)
        class_names = tf.gather(tf.constant(run.class_names), class_ids)
        outputs = {"probabilities": tf.nn.softmax(run.outputs), "class_ids": class_ids, "class_names": class_names}
        tf.saved_model.simple_save(run.network.session, ".", {"images": run.images}, outputs)


class ExportedModel:
    """A SavedModel, loaded with TensorFlow alone into its own graph."""

    def __init__(self, directory):
        with tf.Graph().as_default(), working_directory(directory):
            self.session = device.session()
            signature = tf.saved_model.load(self.session, ["serve"], ".").signature_def["serving_default"]
        self.images = signature.inputs["images"].name
        self.image_shape = tuple(size.size for size in signature.inputs["images"].tensor_shape.dim[1:])
        self.outputs = {name: tensor.name for name, tensor in signature.outputs.items()}

    def predict(self, images):
        """Returns {output name: array} for images [N, H, W, C] uint8."""
        batches = np.array_split(images, range(data.EVAL_BATCH_SIZE, len(images), data.EVAL_BATCH_SIZE))
        parts = [self.session.run(self.outputs, {self.images: batch}) for batch in batches]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}


def verify(outputs, logits, class_names, tolerance):
    """Returns a part of the manifest, or raises UserError if outputs do not fit the run's logits [N, K]."""
    difference = np.abs(outputs["probabilities"] - np.exp(log_softmax(logits))).max()
    flips = int((outputs["class_ids"] != logits.argmax(1)).sum())
    misnamed = (outputs["class_names"].astype("S") != np.array(class_names, "S")[outputs["class_ids"]]).any()
    if flips or misnamed or not difference <= tolerance:  # `not` because NaN fails too
        reason = f"{flips} of {len(logits)} images in another class, probabilities differ by up to {difference:.2g}"
        raise UserError(f"the exported model differs from the run ({reason}): nothing was exported")
    return {"test_images": len(logits), "largest_difference": float(difference), "tolerance": tolerance}


def digests(directory):
    """Returns {relative path: sha256} of every file in an export except the manifest."""
    files = [path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {str(path.relative_to(directory)): sha256(path) for path in files}


def read_manifest(directory):
    """Returns the manifest of an export; raises UserError if its files are missing or changed."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))
        Label.parse(manifest["classifier"])
        if not manifest["sha256"].items() <= digests(directory).items():
            raise ValueError("missing or changed files")
        return manifest
    except READ_ERRORS as error:
        raise UserError(f"{directory} is not a valid export ({error}): run evaluate.py export again") from None
