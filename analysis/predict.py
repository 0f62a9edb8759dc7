"""Image files, classified by the raw and the EMA weights of a run side by side, or by an exported classifier."""

import contextlib
import functools
import io
import json
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf
from PIL import Image, ImageFile, ImageOps

import data
from analysis.export import read_manifest
from analysis.run_network import RestoredRun
from analysis.statistics import log_softmax
from analysis.table import print_wrapped
from analysis.tables import Table, as_text
from training import device
from training.checkpoints import inside
from training.command import UserError, end
from training.labels import Label

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"}  # of what is read of a directory
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"RIFF")
ENDINGS = (b"\xff\xd9", b"IEND\xaeB`\x82", b";")  # of a JPEG, a PNG and a GIF
MAX_BYTES = 64 * 2**20


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
            header = ["image", *(cell for label in classifiers for cell in (label.weights_in_words, ""))]
            lines = [[printable(path), *cells(classes, answers)] for path, answers in rows.items()]
            print(as_text(Table("", header, lines)))
        for path, sentence in errors.items():
            print(f"evaluate.py: {printable(path)}: {sentence}", file=sys.stderr)
        if passed_over:
            print(f"evaluate.py: passed over, being no pictures by their names: {passed_over}", file=sys.stderr)
    if errors:
        end("", 1)


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
    what = f"{label.words}, {run.after()}: {reason}; --decay and --batch_stats name another"
    return what, data.class_names(run.flags.dataset), classifiers


def of_model(directory):
    """The one classifier of an exported directory, as `of_run` returns several."""
    manifest = read_manifest(directory)
    with tf.Graph().as_default(), inside(directory):
        session = device.session()
        signature = tf.saved_model.load(session, ["serve"], ".").signature_def["serving_default"]
    inputs, outputs = signature.inputs["images"].name, signature.outputs["probabilities"].name

    def classify(images):
        parts = np.array_split(images, range(data.BATCH, len(images), data.BATCH))
        return np.concatenate([session.run(outputs, {inputs: part}) for part in parts])

    label = Label.parse(manifest["classifier"])
    return f"{label.words}, {manifest['made']}", manifest["classes"], {label: classify}


def cells(classes, answers):
    """Class and probability by every classifier."""
    return [cell for it in answers.values() for cell in (classes[it.argmax()], f"{100 * it.max():.2f}%")]


def entry(path, classes, answers, error):
    """What --json says about one image."""
    if error:
        return {"image": text_of(path), "error": error}
    predictions = {}
    for label, values in answers.items():
        probabilities = dict(zip(classes, values.tolist(), strict=True))
        best = max(probabilities, key=probabilities.get)
        predictions[str(label)] = {"class": best, "probability": probabilities[best], "probabilities": probabilities}
    return {"image": text_of(path), "predictions": predictions}


def text_of(path):
    """A path as text that can be encoded, whatever its bytes are."""
    return os.fsencode(path).decode(errors="backslashreplace")


def printable(path):
    """A path for the terminal: nothing that would move its cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text_of(path))


# ---------------------------------------------------------------------------------------------------------------
# Image files of any size; nothing that a file says is trusted


def expand(names):
    """The paths named, and in the place of a directory its pictures, sorted; and how many other files are in these."""
    paths, passed_over = [], 0
    for name in map(Path, names):
        inside = sorted(name.iterdir()) if os.path.isdir(name) and os.access(name, os.R_OK | os.X_OK) else []
        files = [path for path in inside if path.name[0] != "." and not os.path.isdir(path)]
        pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
        paths += pictures or [name]
        passed_over += len(files) - len(pictures)
    return list(dict.fromkeys(paths)), passed_over


def read_image(path):
    """The image of a file, [32, 32, 3] uint8; a UserError says why there is none."""
    try:
        size = os.stat(path).st_size
        if not path.is_file():
            if not path.is_dir():
                raise UserError("is no regular file")
            os.listdir(path)  # which one may not be allowed to
            raise UserError("is a directory in which no pictures are found")
        if size > MAX_BYTES:
            raise UserError(f"has more than {MAX_BYTES >> 20} MiB: scale it down")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return decode(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels: scale it down") from None
    except Exception as error:  # Pillow raises many kinds
        raise UserError(what_is_wrong(content, error)) from None


def what_is_wrong(content, error):
    """In words, of a file that Pillow raises an error for."""
    if isinstance(error, MemoryError):
        return "takes more memory than there is: scale it down"
    if "MAX_TEXT_" in str(error):  # its limits of the comments in a PNG
        return "has too much metadata: save it without"
    if not content.startswith(BEGINNINGS) or (content.startswith(b"RIFF") and content[8:12] != b"WEBP"):
        return "is not a JPEG, PNG, GIF, BMP or WebP picture"
    starts = {b"BM": content[2:6], b"RI": content[4:8]}.get(content[:2])  # of those that say how long they are
    whole = len(content) >= int.from_bytes(starts, "little") if starts else content.rstrip(b"\0").endswith(ENDINGS)
    return "is damaged, or holds no picture" if whole else "is cut off: its end is missing"


def decode(content):
    """The central square of an image, upright and on white, as [32, 32, 3] uint8; raises whatever Pillow does."""
    ImageFile.LOAD_TRUNCATED_IMAGES = True  # bears damage in what are no pixels, such as EXIF or comments
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.verify()  # the checksums of a PNG, which decoding skips; the image is of no use afterwards
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    image.load()
    transparent = transparent_colour(image, content)
    with contextlib.suppress(Exception):  # EXIF that cannot be read turns nothing
        image = ImageOps.exif_transpose(image)
    if transparent is not None:
        image.info["transparency"] = transparent
    if image.mode == "I;16":  # `convert` would clip it at 255
        grey, opaque = np.asarray(image) >> 8, 255 * (np.asarray(image) != transparent)
        image = Image.merge("LA", [Image.fromarray(band.astype(np.uint8)) for band in (grey, opaque)])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # Bicubic keeps edges that averaging would blur, and rings less than Lanczos.
    return np.array(ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BICUBIC))


def transparent_colour(image, content):
    """What is transparent in an image, as Pillow has its pixels: it leaves the colour of a PNG in the file's depth, and
    makes 8 bits of others than grey ones of 16."""
    colour = image.info.get("transparency")
    if colour is None or image.format != "PNG" or image.mode not in ("L", "RGB"):
        return colour
    depth = content[24]
    scaled = [one >> 8 if depth == 16 else one * 255 // (2**depth - 1) for one in np.atleast_1d(colour).tolist()]
    return tuple(scaled) if image.mode == "RGB" else scaled[0]
