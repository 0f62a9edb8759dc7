"""Image files, classified by the raw and the EMA weights of a run side by side, or by an exported classifier."""

import functools
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image, ImageOps

import data
from analysis.evaluation_table import print_wrapped
from analysis.export import read_manifest
from analysis.formatting import Table, as_text
from analysis.restored_run import RestoredRun
from analysis.statistics import log_softmax
from training import device
from training.checkpoints import working_directory
from training.cli import UserError
from training.labels import Label

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"}  # of what is read of a directory


def main(args):
    """Prints class and probability of every image; exits with status 1 where one could not be read."""
    device.choose("auto")
    if args.model and (args.decay or args.batch_stats):
        raise UserError("--model holds one classifier: leave --decay and --batch_stats out, or name a --run_dir", 2)
    what, classes, classifiers = of_model(Path(args.model)) if args.model else of_run(args)
    paths, passed_over = expand(args.images)
    images, errors = {}, {}
    for path in paths:
        try:
            images[path] = read_image(path)
        except UserError as error:
            errors[path] = str(error)
    pixels = np.stack(list(images.values())) if images else None
    answers = {label: classify(pixels) for label, classify in classifiers.items()} if images else {}
    rows = {path: {label: values[i] for label, values in answers.items()} for i, path in enumerate(images)}
    if args.json:
        entries = [entry(path, classes, rows.get(path), errors.get(path)) for path in paths]
        about = {"classifiers": list(map(str, classifiers)), "chosen": what, "passed_over": passed_over}
        print(json.dumps(about | {"images": entries}, indent=2))
    else:
        if rows:
            print_wrapped(what)
            header = ["image", *(cell for label in classifiers for cell in (label.weights_name, ""))]
            lines = [[printable(path), *cells(classes, answers)] for path, answers in rows.items()]
            print(as_text(Table("", header, lines)))
        for path, sentence in errors.items():
            print(f"evaluate.py: {printable(path)}: {sentence}", file=sys.stderr)
        if passed_over:
            print(f"evaluate.py: passed over, being no pictures by their names: {passed_over}", file=sys.stderr)
    if errors:
        sys.exit(1)


def of_run(args):
    """The EMA classifier of a run that is chosen or asked for, and what it is fairly compared with.

    Returns:
      (in words which it is, class names, {Label: function from images [N, 32, 32, 3] uint8 to probabilities [N, 10]}).
    """
    run = RestoredRun(args.run_dir, args.data_dir)
    label, reason = run.choose("ema", args.decay, args.batch_stats)

    def classify(label, images):
        run.use(label)
        return np.exp(log_softmax(run.logits(images)))

    classifiers = {one: functools.partial(classify, one) for one in (label.baseline, label)}
    what = f"{label.display_name}, {run.after()}: {reason}; --decay and --batch_stats name another"
    return what, data.class_names(run.flags.dataset), classifiers


def of_model(directory):
    """The one classifier of an exported directory, as `of_run` returns several."""
    manifest = read_manifest(directory)
    with tf.Graph().as_default(), working_directory(directory):
        session = device.session()
        signature = tf.saved_model.load(session, ["serve"], ".").signature_def["serving_default"]
    inputs, outputs = signature.inputs["images"].name, signature.outputs["probabilities"].name

    def classify(images):
        parts = np.array_split(images, range(data.EVAL_BATCH_SIZE, len(images), data.EVAL_BATCH_SIZE))
        return np.concatenate([session.run(outputs, {inputs: part}) for part in parts])

    label = Label.parse(manifest["classifier"])
    return f"{label.display_name}, {manifest['made']}", manifest["classes"], {label: classify}


def cells(classes, answers):
    """Class and probability by every classifier."""
    return [cell for it in answers.values() for cell in (classes[it.argmax()], f"{100 * it.max():.2f}%")]


def entry(path, classes, answers, error):
    """What --json says about one image."""
    if error:
        return {"image": str(path), "error": error}
    predictions = {}
    for label, values in answers.items():
        probabilities = dict(zip(classes, values.tolist(), strict=True))
        best = max(probabilities, key=probabilities.get)
        predictions[str(label)] = {"class": best, "probability": probabilities[best], "probabilities": probabilities}
    return {"image": str(path), "predictions": predictions}


def printable(path):
    """A path without terminal control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(path))


# ---------------------------------------------------------------------------------------------------------------
# Image files


def expand(names):
    """The files named, with directories replaced by the images in them; and how many other files those hold."""
    paths, skipped = [], 0
    for name in map(Path, names):
        files = sorted(path for path in name.iterdir() if path.is_file()) if name.is_dir() else [name]
        images = [path for path in files if path.suffix.lower() in SUFFIXES] if name.is_dir() else files
        paths += images
        skipped += len(files) - len(images)
    return list(dict.fromkeys(paths)), skipped


def read_image(path):
    """The central square of an image file, upright, on white, as [32, 32, 3] uint8."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(path, formats=FORMATS))
            if image.mode == "I;16":  # convert() would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BICUBIC))
    except OSError as error:  # missing, unreadable, truncated, not an image
        raise UserError(error.strerror or str(error)) from None
    except Exception as error:  # Pillow raises many kinds for damaged or huge files
        raise UserError(f"cannot be decoded ({error})") from None
