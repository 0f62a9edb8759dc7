"""Image files of any size as the 32x32 pixels that the classifiers take; nothing that a file says is trusted.

A JPEG, PNG, GIF, BMP or WebP of any depth, of an animation the first frame, is turned the way it was photographed,
cropped to its central square and resized with antialiasing; what is transparent is put on white.
"""

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from training.command import UserError

SIZE = (32, 32)  # data.IMAGE_SHAPE, without the import of TensorFlow
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000  # of the image as decoded: a file of a few kilobytes can claim any number of them


def expand(names):
    """The paths named; in the place of a directory its files, sorted, without hidden ones and those further below."""
    paths = []
    for path in map(Path, names):
        files = sorted(p for p in path.iterdir() if not p.is_dir() and p.name[0] != ".") if path.is_dir() else []
        paths += files or [path]
    return paths


def read_image(path):
    """The image of a file, [32, 32, 3] uint8.

    Raises:
      UserError: why there is none.
    """
    content = read(Path(path))
    try:
        with limits():
            return decode(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"has more than {MAX_PIXELS:,} pixels: scale it down") from None
    except Exception as error:  # Pillow, and what it parses EXIF and palettes with, raise many kinds, MemoryError too
        if isinstance(error, UnidentifiedImageError) and not has_signature(content):
            raise UserError("is not a JPEG, PNG, GIF, BMP or WebP image") from None
        raise UserError("is truncated or damaged: Pillow cannot decode it") from None


def read(path):
    """The bytes of a regular file of at most MAX_BYTES."""
    try:
        if path.is_dir():
            raise UserError("is a directory without files")
        if not path.exists():
            raise UserError("does not exist")
        if not path.is_file():
            raise UserError("is not a regular file")
        if os.path.getsize(path) > MAX_BYTES:
            raise UserError(f"has more than {MAX_BYTES >> 20} MiB: scale it down")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from None


@contextlib.contextmanager
def limits():
    """Within it, Pillow refuses images of more than MAX_PIXELS, instead of its own limit, and gives no warnings."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # up to twice the limit Pillow only warns
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def has_signature(content):
    """Whether the bytes begin as one of FORMATS: to Pillow, a damaged header is as unidentified as any other file."""
    signatures = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM")
    return content.startswith(signatures) or (content[:4], content[8:12]) == (b"RIFF", b"WEBP")


def decode(content):
    """The bytes of an image file as [32, 32, 3] uint8; raises whatever Pillow does."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        image.verify()  # the checksums of a PNG, which decoding skips; the image is of no use afterwards
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        square = to_rgb(central_square(ImageOps.exif_transpose(image)))
    # Each pixel is computed from as many as it stands for. Bicubic keeps edges that averaging would blur, and rings
    # less than Lanczos; a reducing_gap would be faster and less exact.
    return np.array(square.resize(SIZE, Image.Resampling.BICUBIC))


def central_square(image):
    """The largest square in the middle: the proportions stay, the ends of the longer side go."""
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_rgb(image):
    """An image of any mode as one of mode RGB, on white."""
    if image.mode == "I;16":
        image = eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def eight_bits(image):
    """16-bit grey as 8-bit grey, with alpha where one grey is transparent; Pillow's `convert` would clip at 255."""
    values = np.asarray(image)
    grey = Image.fromarray((values >> 8).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey
