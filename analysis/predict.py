"""evaluate.py predict: classifies image files with raw and EMA weights, or with an exported classifier."""

import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from analysis.export import ExportedModel, read_manifest
from analysis.formatting import Table, as_text, print_wrapped
from analysis.restored_run import RestoredRun
from analysis.statistics import log_softmax
from training import device
from training.cli import UserError
from training.labels import Label

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"}  # read from directories


class Source(NamedTuple):
    description: str
    class_names: list
    image_shape: tuple
    classifiers: dict  # Label to function from images [N, H, W, C] uint8 to probabilities [N, K]


def main(args):
    """Prints class and probability of every image; exits with status 1 if an image could not be read."""
    if args.model and (args.decay or args.batch_stats):
        raise UserError("--model is a single classifier; --decay and --batch_stats need --run_dir", 2)
    device.choose("auto")
    source = from_export(Path(args.model)) if args.model else from_run(args)
    paths, skipped = list_images(args.images)
    results = classify(paths, source)
    if args.json:
        document = {"classifiers": list(map(str, source.classifiers)), "chosen": source.description}
        print(json.dumps(document | {"passed_over": skipped, "images": results}, indent=2))
    else:
        print_table(results, source, skipped)
    if any("error" in result for result in results):
        sys.exit(1)


def from_run(args):
    """Returns the Source of an EMA classifier of a run and its baseline."""
    run = RestoredRun(args.run_dir, args.data_dir)
    label, reason = run.choose("ema", args.decay, args.batch_stats)

    def probabilities(label, images):
        run.use(label)
        return np.exp(log_softmax(run.logits(images)))

    classifiers = {name: partial(probabilities, name) for name in (label.baseline, label)}
    chosen = f"{label.display_name}, {run.describe_step()}: {reason}; --decay and --batch_stats choose another"
    return Source(chosen, run.class_names, run.image_shape, classifiers)


def from_export(directory):
    """Returns the Source of an exported classifier."""
    manifest = read_manifest(directory)
    model, label = ExportedModel(directory), Label.parse(manifest["classifier"])
    classifiers = {label: lambda images: model.predict(images)["probabilities"]}
    return Source(f"{label.display_name}, {manifest['made']}", manifest["classes"], model.image_shape, classifiers)


def classify(paths, source):
    """Returns {image: path, predictions: {label: class and probabilities}} or {image: path, error: text} of each."""
    results, images = [], []
    for path in paths:
        try:
            images.append(read_image(path, source.image_shape))
            results.append({"image": str(path), "predictions": {}})
        except UserError as error:
            results.append({"image": str(path), "error": str(error)})
    predictions = [result["predictions"] for result in results if "predictions" in result]
    for label, probabilities in source.classifiers.items() if images else ():
        for by_label, values in zip(predictions, probabilities(np.stack(images)), strict=True):
            by_class = dict(zip(source.class_names, values.tolist(), strict=True))
            best = max(by_class, key=by_class.get)
            by_label[str(label)] = {"class": best, "probability": by_class[best], "probabilities": by_class}
    return results


def print_table(results, source, skipped):
    header, rows = ["image"], []
    for label in source.classifiers:
        header += [label.weights_name, ""]
    for result in results:
        row = [printable(result["image"])]
        for prediction in result.get("predictions", {}).values():
            row += [prediction["class"], f"{100 * prediction['probability']:.2f}%"]
        if "error" in result:
            print(f"evaluate.py: {row[0]}: {result['error']}", file=sys.stderr)
        else:
            rows.append(row)
    if rows:
        print_wrapped(source.description)
        print(as_text(Table("", header, rows)))
    if skipped:
        print(f"evaluate.py: skipped {skipped} files without an image extension", file=sys.stderr)


def printable(path):
    """Replaces terminal control characters in a path."""
    return "".join(letter if letter.isprintable() else "?" for letter in path)


# ---------------------------------------------------------------------------------------------------------------
# Image files


def list_images(names):
    """Returns the files in `names` and the images in directories in `names`, and the number of other files there."""
    paths, skipped = [], 0
    for name in map(Path, names):
        if not os.path.isdir(name):  # unlike Path.is_dir, False for names that are too long
            paths.append(name)
            continue
        files = [path for path in sorted(name.iterdir()) if path.is_file()]
        images = [path for path in files if path.suffix.lower() in SUFFIXES]
        paths += images
        skipped += len(files) - len(images)
    return list(dict.fromkeys(paths)), skipped


def read_image(path, shape):
    """Returns the central square of an image file, upright, on white, scaled to `shape` (H, W, 3), uint8.

    Raises:
      UserError: the file cannot be read or decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = ImageOps.exif_transpose(Image.open(path, formats=FORMATS))
            if image.mode == "I;16":  # convert() would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return np.array(ImageOps.fit(image.convert("RGB"), (shape[1], shape[0]), Image.Resampling.BICUBIC))
    except OSError as error:  # missing, unreadable, truncated, not an image
        raise UserError(error.strerror or str(error)) from None
    except Exception as error:  # Pillow raises many kinds for corrupt or huge files
        raise UserError(f"cannot be decoded ({error})") from None
