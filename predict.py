"""Image files, classified by the raw and the EMA weights of a run side by side, or by an exported classifier."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

import data
import devices
import loop
import pictures
from analysis.finished import read_run
from errors import UserError
from export import read_manifest
from plain import BATCH, Plain
from quiet import captured_stderr
from trained import Trained


def main(args):
    """Prints class and probability of every image; exits with status 1 where one could not be read.

    Raises:
      UserError: there is no such run or model.
    """
    devices.choose("auto")
    classifiers = of_model(Path(args.model)) if args.model else of_run(args.run_dir, args.data_dir)
    paths = list(dict.fromkeys(pictures.expand(args.images)))
    images, errors = decode(paths)
    rows = classify(classifiers, images)
    if args.json:
        entries = [entry(path, rows.get(path), errors.get(path)) for path in paths]
        print(json.dumps({"classifiers": list(classifiers), "images": entries}, indent=2))
    else:
        if rows:
            print(table(list(classifiers), rows))
        for path, sentence in errors.items():
            print(f"evaluate.py: {shown(path)}: {sentence}", file=sys.stderr)
    if errors:
        sys.exit(1)


def of_run(run_dir, data_dir):
    """The raw and the primary EMA classifier of a run, at equal batch-statistics policy.

    The data is needed only where the statistics are to be recomputed.

    Returns:
      Label to function from images [N, 32, 32, 3] uint8 to probabilities [N, 10].
    """
    run = read_run(Path(run_dir))
    primary = next(label for label in run.rows[-1]["classifiers"] if label.startswith("ema/"))
    plain = {label: Plain(run, label, primary.split("/")[1]) for label in (loop.baseline(primary), primary)}
    if primary.endswith("/recomputed"):
        with Trained(run_dir, data_dir) as trained:
            for label, one in plain.items():
                trained.logits(label)
                one.load_stats(trained.recomputed_stats(label))
    return {label: one.probabilities for label, one in plain.items()}


def of_model(directory):
    """The one classifier of an exported directory, as `of_run` returns several."""
    label = read_manifest(directory)["classifier"]
    with tf.Graph().as_default(), captured_stderr():
        session = devices.session()
        signature = tf.saved_model.load(session, ["serve"], str(directory)).signature_def["serving_default"]
    images, probabilities = signature.inputs["images"].name, signature.outputs["probabilities"].name
    return {label: lambda batch: session.run(probabilities, {images: batch})}


def decode(paths):
    """Reads image files: ({path: [32, 32, 3] uint8}, {path: what is wrong with it})."""
    decoder, images, errors = pictures.Decoder(), {}, {}
    for path in paths:
        try:
            images[path] = decoder(path)
        except UserError as error:
            errors[path] = str(error)
    return images, errors


def classify(classifiers, images):
    """Path to {label: probabilities [10]}, for images by path."""
    paths, rows = list(images), {}
    for start in range(0, len(paths), BATCH):
        some = paths[start : start + BATCH]
        batch = np.stack([images[path] for path in some])
        answers = {label: classifier(batch) for label, classifier in classifiers.items()}
        rows |= {path: {label: values[i] for label, values in answers.items()} for i, path in enumerate(some)}
    return rows


def table(labels, rows):
    """Class and probability by every classifier, a line for each image."""
    names = [shown(path) for path in rows]
    width = max(map(len, [*names, "image"]))
    columns = [max(len(label), 18) for label in labels]
    lines = [f"{'image':<{width}}" + "".join(f"   {label:<{w}}" for label, w in zip(labels, columns, strict=True))]
    for name, answers in zip(names, rows.values(), strict=True):
        cells = (f"{data.CLASSES[values.argmax()]:<10} {100 * values.max():6.2f}%" for values in answers.values())
        lines.append(f"{name:<{width}}" + "".join(f"   {c:<{w}}" for c, w in zip(cells, columns, strict=True)))
    return "\n".join(line.rstrip() for line in lines)


def shown(path):
    """A path for the terminal: nothing that would move its cursor, nothing that it could not encode."""
    text = os.fsencode(path).decode(errors="replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def entry(path, answers, error):
    """What --json says about one image."""
    if error:
        return {"image": str(path), "error": error}
    predictions = {
        label: {
            "class": data.CLASSES[values.argmax()],
            "probability": float(values.max()),
            "probabilities": dict(zip(data.CLASSES, values.tolist(), strict=True)),
        }
        for label, values in answers.items()
    }
    return {"image": str(path), "predictions": predictions}
