"""Image files, classified by the raw and the EMA weights of a run side by side, or by an exported classifier."""

import functools
import json
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

import data
from analysis import image_files
from analysis.export import read_manifest
from analysis.run_network import BATCH, RestoredRun
from analysis.statistics import log_softmax
from training import device
from training.command import UserError


def main(args):
    """Prints class and probability of every image; exits with status 1 where one could not be read.

    Raises:
      UserError: there is no such run or model.
    """
    device.choose("auto")
    classifiers = of_model(Path(args.model)) if args.model else of_run(args.run_dir, args.data_dir)
    paths = list(dict.fromkeys(image_files.expand(args.images)))
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
    """The primary EMA classifier of a run, and what it is fairly compared with.

    The data is needed only where batch statistics are to be recomputed.

    Returns:
      Label to function from images [N, 32, 32, 3] uint8 to probabilities [N, 10].
    """
    run = RestoredRun(run_dir, data_dir)

    def ask(label, images):
        run.take(label)
        return np.exp(log_softmax(run.logits(images)))

    return {str(label): functools.partial(ask, label) for label in (run.primary.baseline, run.primary)}


def of_model(directory):
    """The one classifier of an exported directory, as `of_run` returns several."""
    label = read_manifest(directory)["classifier"]
    with tf.Graph().as_default():
        session = device.session()
        signature = tf.saved_model.load(session, ["serve"], str(directory)).signature_def["serving_default"]
    images, probabilities = signature.inputs["images"].name, signature.outputs["probabilities"].name

    def ask(pictures):
        parts = np.array_split(pictures, range(BATCH, len(pictures), BATCH))
        return np.concatenate([session.run(probabilities, {images: part}) for part in parts])

    return {label: ask}


def decode(paths):
    """Reads image files: ({path: [32, 32, 3] uint8}, {path: what is wrong with it})."""
    images, errors = {}, {}
    for path in paths:
        try:
            images[path] = image_files.read_image(path)
        except UserError as error:
            errors[path] = str(error)
    return images, errors


def classify(classifiers, images):
    """Path to {label: probabilities [10]}, for images by path."""
    if not images:
        return {}
    pixels = np.stack(list(images.values()))
    answers = {label: classifier(pixels) for label, classifier in classifiers.items()}
    return {path: {label: values[i] for label, values in answers.items()} for i, path in enumerate(images)}


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
