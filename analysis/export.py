"""A classifier leaves its run: a SavedModel that needs nothing of ours, its weights as .npz, and a manifest.

saved_model.pb, variables/   signature serving_default: images [N, 32, 32, 3] uint8, any N, to probabilities [N, 10]
                             float32, class_ids [N] int64, class_names [N] string
weights.npz                  variable name to array
manifest.json                where it comes from, its test accuracy, how it was checked, sha256 of every other file
"""

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
from analysis import statistics
from analysis.run_network import RestoredRun
from training.command import UserError
from training.files import sha256, write_arrays, write_json
from training.labels import Label
from training.run_directory import versions

# Of a probability. The exported graph computes what the run's does, in the same precision, but other shapes may take
# other kernels, which add up in another order.
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}

# Runs in a process of its own: nothing of this project is imported, as wherever the model will be served.
ASK = """
import sys
import numpy as np
import tensorflow as tf

model, questions, answers = sys.argv[1:]
classify = tf.saved_model.load(model).signatures["serving_default"]
images = np.load(questions)
parts = [classify(images=tf.constant(images[i : i + 500])) for i in range(0, len(images), 500)]
np.savez(answers, **{name: np.concatenate([part[name].numpy() for part in parts]).astype(kind)
                     for name, kind in (("probabilities", "f4"), ("class_ids", "i8"), ("class_names", "S"))})
"""


def main(args):
    """Exports one classifier of a run.

    Raises:
      UserError: the output is taken, the run has no such classifier, or the export does not predict what the run does.
    """
    output = Path(args.output)
    check_output(output)
    with RestoredRun(args.run_dir, args.data_dir) as run:
        label = choose(run, args.weights, args.decay, args.batch_stats)
        manifest = write(run, label, output)
    verified = manifest["verified"]
    print(
        f"{output}: {label}, test accuracy {100 * manifest['test_accuracy']:.2f}%; reloaded by itself, its predictions "
        f"on {verified['test_images']} test images are the run's (largest difference of a probability "
        f"{verified['largest_difference']:.1g})"
    )


def check_output(output):
    if output.is_symlink() or (output.exists() and not (output.is_dir() and not any(output.iterdir()))):
        raise UserError(f"{output} exists already: choose another --output")
    if not output.name:
        raise UserError(f"{output} is the directory that you are in: choose another --output")
    if not output.parent.is_dir():
        raise UserError(
            f"{output.parent} is not a directory: create it (mkdir -p {shlex.quote(str(output.parent))}) or choose "
            "another --output"
        )


def choose(run, weights, decay, policy):
    """The label of the classifier asked for; the run's primary decay and first policy where not said."""
    primary = run.primary
    label = Label("ema", primary.decay if decay is None else str(decay), policy or primary.statistics)
    if weights == "raw":
        if decay is not None or policy == "averaged":
            raise UserError("--weights raw knows no averages: leave --decay and --batch_stats averaged out", 2)
        label = label.baseline
    if label not in run.labels:
        known = ", ".join(map(str, run.labels))
        raise UserError(f"{run.path} holds no {label}, but {known}: choose one of these", 2)
    return label


def write(run, label, output):
    """Exports beside `output`, checks what was written, and renames it.

    Args:
      run: RestoredRun.
      label: of one of its classifiers.
      output: Path, of nothing or of an empty directory.

    Returns:
      The manifest, a dict.

    Raises:
      UserError: the export does not predict what the run does; nothing is left of it.
    """
    logits = run.test_logits(label)
    beside = output.with_name(f".{output.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        save_model(run, beside)
        write_arrays(beside / "weights.npz", run.network.values())
        verified = verify(beside, run.dataset.test.images, logits, TOLERANCE[run.precision])
        manifest = describe(run, label, logits) | {"verified": verified, "sha256": digests(beside)}
        write_json(beside / "manifest.json", manifest)
        beside.rename(output)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest


def save_model(run, directory):
    """Writes the network of a RestoredRun, as it is now, as a SavedModel with the one signature serving_default."""
    with run.network.graph.as_default():  # v1's own builder calls what v2 deprecates
        ids = tf.argmax(run.outputs, 1)
        outputs = {
            "probabilities": tf.nn.softmax(run.outputs),
            "class_ids": ids,
            "class_names": tf.gather(tf.constant(data.CLASSES), ids),
        }
        builder = tf.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(
            run.network.session,
            [tf.saved_model.tag_constants.SERVING],
            {
                tf.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY: (
                    tf.saved_model.predict_signature_def({"images": run.images}, outputs)
                )
            },
            saver=tf.train.Saver(run.network.variables),
            strip_default_attrs=True,
        )
        builder.save()


def verify(directory, images, logits, tolerance):
    """Reloads a SavedModel in a process that imports TensorFlow only, and compares its test predictions.

    Args:
      directory: of the SavedModel.
      images, logits: [N, 32, 32, 3] uint8 and the run's own [N, 10].
      tolerance: of a probability.

    Returns:
      What was found, for the manifest.

    Raises:
      UserError: it does not load, or predicts something else.
    """
    answers = ask(directory, images)
    difference = np.abs(answers["probabilities"] - np.exp(statistics.log_softmax(logits))).max()
    ids = logits.argmax(1)
    names = np.array(data.CLASSES, "S")[answers["class_ids"]]
    flips = int((answers["class_ids"] != ids).sum())
    if flips or not difference <= tolerance or (answers["class_names"] != names).any():  # a NaN is no agreement either
        raise UserError(
            f"the exported model does not predict what the run does ({flips} of {len(ids)} test images in another "
            f"class, probabilities up to {difference:.2g} apart, {tolerance:g} allowed): nothing was exported, try "
            "again once the run is no longer training"
        )
    return {"test_images": len(ids), "largest_difference": float(difference), "tolerance": tolerance}


def ask(directory, images):
    """The answers of a SavedModel, by output name, from a fresh process."""
    with tempfile.TemporaryDirectory() as scratch:
        np.save(f"{scratch}/questions.npy", images)
        command = [sys.executable, "-c", ASK, directory.resolve(), "questions.npy", "answers.npz"]
        result = subprocess.run(
            command,
            cwd=scratch,  # away from this project's modules
            env={**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": "true"},  # this process holds memory of the GPU too
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or [f"exit status {result.returncode}"])[-1]
            raise UserError(f"the exported model does not load by itself ({reason}): nothing was exported")
        with np.load(f"{scratch}/answers.npz", allow_pickle=False) as answers:
            return dict(answers)


def describe(run, label, logits):
    """What the manifest says about a classifier and where it comes from."""
    return {
        "classifier": str(label),
        "weights": label.weights,
        "decay": label.decay,
        "batch_stats": label.statistics,
        "test_accuracy": float(np.mean(logits.argmax(1) == run.dataset.test.labels)),
        "data": run.dataset.source,
        "step": run.state["step"],
        "versions": versions(),
        "run": run.config,
    }


def digests(directory):
    """The sha256 of every file under a directory but its manifest, by relative path."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(directory)): sha256(path) for path in files}


def read_manifest(directory):
    """The manifest of an exported classifier whose files are all as they were written.

    Raises:
      UserError: they are not, or this is no exported classifier.
    """
    remedy = "name a directory that evaluate.py export has written"
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        label, expected = str(manifest["classifier"]), dict(manifest["sha256"])
    except OSError:
        raise UserError(f"{directory} holds no readable manifest.json: {remedy}") from None
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{directory / 'manifest.json'} is damaged: export again, or {remedy}") from None
    found = digests(directory)
    if changed := sorted(name for name in expected if found.get(name) != expected[name]):
        raise UserError(f"{directory / changed[0]} is not the file that was exported: export again, or {remedy}")
    return manifest | {"classifier": label}
