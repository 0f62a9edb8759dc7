"""Image files of every format as 32x32 pixels, against TensorFlow's decoders; other files as one sentence."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.damage import damages, fuzz

from analysis import predict
from training.cli import UserError

PIXELS = np.random.default_rng(3).integers(0, 256, (7, 9, 3)).astype(np.uint8)
PHOTO = Image.fromarray(PIXELS).resize((120, 80), Image.Resampling.BICUBIC)  # smooth, so that JPEG preserves it


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", PHOTO.size, colour) for colour in ("red", "blue")]}
FILES = {
    "rgb.png": encoded(PHOTO, "PNG"),
    "palette.png": encoded(PHOTO.quantize(16), "PNG", transparency=bytes(range(0, 160, 10))),
    "rgb.jpg": encoded(PHOTO, "JPEG", quality=95),
    "progressive.jpg": encoded(PHOTO, "JPEG", quality=95, progressive=True),
    "several.jpg": encoded(PHOTO, "MPO", quality=95, **FRAMES),
    "still.gif": encoded(PHOTO, "GIF"),
    "animated.gif": encoded(PHOTO, "GIF", **FRAMES),
    "rgb.bmp": encoded(PHOTO, "BMP"),
    "lossy.webp": encoded(PHOTO, "WEBP", quality=95),
    "turned.webp": encoded(PHOTO, "WEBP", lossless=True, exif=oriented(6)),
    "animated.webp": encoded(PHOTO, "WEBP", lossless=True, **FRAMES),
}
LOSSLESS = [("PNG", {}), ("WEBP", {"lossless": True})]


@pytest.fixture(scope="module")
def decode(tmp_path_factory):
    """Decodes a file with the given content."""
    path = tmp_path_factory.mktemp("image") / "file"

    def decode(content):
        path.write_bytes(content)
        return predict.read_image(path, (32, 32, 3))

    return decode


@pytest.fixture
def same(decode):
    """Whether a file decodes to exactly the pixels of an image saved as plain PNG."""
    return lambda content, image: np.array_equal(decode(content), decode(encoded(image.convert("RGB"), "PNG")))


def by_tensorflow(content):
    """Decodes a JPEG, PNG, GIF or BMP with TensorFlow: the central square, antialiased, [32, 32, 3] int."""
    with tf.Graph().as_default(), tf.device("CPU:0"), tf.Session() as session:
        image = session.run(tf.image.decode_image(content, channels=3, expand_animations=False))
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[top : top + side, left : left + side].astype(np.float32)
        small = session.run(tf2.image.resize(square, (32, 32), "bicubic", antialias=True))
    return np.rint(np.clip(small, 0, 255)).astype(int)


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "progressive.jpg", "still.gif", "animated.gif", "rgb.bmp"])
def test_format_agrees_with_tensorflow(decode, name):
    image = decode(FILES[name])
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    difference = np.abs(image - by_tensorflow(FILES[name])).max()
    assert difference <= (8 if name.endswith("jpg") else 2)  # JPEG decoders may differ


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (1, 501), (501, 1), (31, 33), (64, 64), (700, 300)], ids=str)
def test_size_agrees_with_tensorflow(decode, size):
    content = encoded(PHOTO.resize(size), "PNG")
    assert np.abs(decode(content) - by_tensorflow(content)).max() <= (0 if size == (32, 32) else 2)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_lossless_formats_agree(same, mode):
    for kind, options in [*LOSSLESS, ("GIF", {}), ("BMP", {})]:
        image = PHOTO.quantize(16) if mode == "P" or (kind, mode) == ("GIF", "RGB") else PHOTO.convert(mode)
        assert same(encoded(image, kind, **options), image), kind


def test_lossy_webp_and_cmyk(decode):
    for content in (FILES["lossy.webp"], encoded(PHOTO.convert("CMYK"), "JPEG", quality=95)):
        assert np.abs(decode(content).astype(int) - decode(FILES["rgb.png"])).max() <= 12


def test_first_frame_is_used(decode):
    for name, first in (("animated.webp", "rgb.png"), ("several.jpg", "rgb.jpg")):
        assert np.array_equal(decode(FILES[name]), decode(FILES[first]))


def test_16_bits_are_scaled(same):
    grey = PHOTO.convert("L")
    for low in (0, 255):
        assert same(encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + low), "PNG"), grey)


# Upright pixels from stored pixels, by the EXIF specification's words for row 0 and column 0 of the stored image.
UPRIGHT = {
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: a.swapaxes(0, 1)[::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(same, orientation):
    expected = Image.fromarray(UPRIGHT[orientation](np.asarray(PHOTO)))
    for kind, options in LOSSLESS:
        assert same(encoded(PHOTO, kind, exif=oriented(orientation), **options), expected), kind


def test_transparency_becomes_white(decode):
    for mode, (kind, options) in (("RGBA", LOSSLESS[0]), ("LA", LOSSLESS[0]), ("RGBA", LOSSLESS[1])):
        image = Image.new(mode, (40, 40), (0,) * len(mode))
        image.paste((0,) * (len(mode) - 1) + (255,), (0, 0, 20, 40))
        pixels = decode(encoded(image, kind, **options))
        assert (pixels[:, :14] == 0).all() and (pixels[:, 18:] == 255).all(), (mode, kind)
        half = decode(encoded(Image.new("RGBA", (40, 40), (0, 100, 200, 128)), kind, **options))
        assert np.abs(half - np.array([127, 177, 227])).max() <= 1, kind
    for kind, transparency, right in (("PNG", 1, 255), ("GIF", 1, 255), ("PNG", bytes([255, 128]), 127)):
        image = Image.new("P", (40, 40), 1)
        image.putpalette([10, 20, 30, 0, 0, 0])
        image.paste(0, (0, 0, 20, 40))
        pixels = decode(encoded(image, kind, transparency=transparency)).astype(int)
        assert (pixels[:, :14] == [10, 20, 30]).all()
        assert np.abs(pixels[:, 18:] - right).max() <= 1, (kind, transparency)


@pytest.mark.parametrize("content", [b"", b"hello", b"<svg/>", encoded(PHOTO, "TIFF")], ids=len)
def test_other_files_are_refused(decode, content):
    with pytest.raises(UserError):
        decode(content)


@pytest.mark.parametrize("size", [(9500, 9500), (100_000, 100_000)], ids=str)
def test_too_many_pixels_are_refused(decode, recwarn, size):
    content = bytearray(FILES["rgb.png"])
    struct.pack_into(">II", content, 16, *size)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    with pytest.raises(UserError, match="pixels"):
        decode(bytes(content))
    assert not recwarn.list


@fuzz(400)
@given(name=st.sampled_from(sorted(FILES)), changes=st.lists(damages, max_size=4))
def test_corrupt_file_is_decoded_or_refused(decode, name, changes):
    content = FILES[name]
    for damage in changes:
        content = damage(content)
    try:
        image = decode(content)
    except UserError:
        return
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "directory").mkdir()
    for name in ("dangling", "none", "directory", "n" * 300):
        with pytest.raises(UserError):
            predict.read_image(tmp_path / name, (32, 32, 3))


def test_directory_lists_its_images(tmp_path):
    for name in ("b.png", "a.jpg", "C.JPEG", "notes.txt", "d.tiff", "below/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = [tmp_path / name for name in ("C.JPEG", "a.jpg", "b.png")]
    names = [tmp_path, "x.txt", "n" * 300, tmp_path / "b.png"]
    assert predict.list_images(names) == ([*images, Path("x.txt"), Path("n" * 300)], 2)
