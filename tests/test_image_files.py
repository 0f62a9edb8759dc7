"""Image files of every kind, sound and unsound, as 32x32 pixels or as one sentence that is true."""

import io
import os
import struct
import zlib
from itertools import starmap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from support.damage import damages, fuzz

from analysis import predict
from training.cli import UserError

COLOURS = np.random.default_rng(3).integers(0, 256, (7, 9, 3)).astype(np.uint8)
PHOTO = Image.fromarray(COLOURS).resize((120, 80), Image.Resampling.BICUBIC)  # smooth, so that JPEG keeps it


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(kind, content, before=b"IDAT"):
    """PHOTO as a PNG with one chunk more."""
    place = FILES["rgb.png"].index(before) - 4
    return FILES["rgb.png"][:place] + chunk(kind, content) + FILES["rgb.png"][place:]


OTHERS = {"save_all": True, "append_images": [Image.new("RGB", PHOTO.size, colour) for colour in ("red", "blue")]}
FILES = {
    "rgb.png": encoded(PHOTO, "PNG"),
    "palette.png": encoded(PHOTO.quantize(16), "PNG", transparency=bytes(range(0, 160, 10))),
    "rgb.jpg": encoded(PHOTO, "JPEG", quality=95),
    "progressive.jpg": encoded(PHOTO, "JPEG", quality=95, progressive=True),
    "turned.jpg": encoded(PHOTO, "JPEG", quality=95, exif=oriented(6)),
    "several.jpg": encoded(PHOTO, "MPO", quality=95, **OTHERS),
    "still.gif": encoded(PHOTO, "GIF"),
    "animated.gif": encoded(PHOTO, "GIF", **OTHERS),
    "rgb.bmp": encoded(PHOTO, "BMP"),
    "lossy.webp": encoded(PHOTO, "WEBP", quality=95),
    "turned.webp": encoded(PHOTO, "WEBP", lossless=True, exif=oriented(6)),
    "animated.webp": encoded(PHOTO, "WEBP", lossless=True, **OTHERS),
}
LOSSLESS = [("PNG", {}), ("WEBP", {"lossless": True})]


@pytest.fixture(scope="module")
def decode(tmp_path_factory):
    """The 32x32 image of a file with this content."""
    path = tmp_path_factory.mktemp("image") / "file"

    def decode(content):
        path.write_bytes(content)
        return predict.read_image(path)

    return decode


@pytest.fixture
def same(decode):
    """Whether a file is to the last bit what these pixels are as a plain PNG."""
    return lambda content, image: np.array_equal(decode(content), decode(encoded(image.convert("RGB"), "PNG")))


def by_tensorflow(content):
    """A JPEG, PNG, GIF or BMP of three channels: its central square, antialiased, [32, 32, 3] int."""
    with tf.Graph().as_default(), tf.device("CPU:0"), tf.Session() as session:
        image = session.run(tf.image.decode_image(content, channels=3, expand_animations=False))
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[top : top + side, left : left + side].astype(np.float32)
        small = session.run(tf2.image.resize(square, (32, 32), "bicubic", antialias=True))
    return np.rint(np.clip(small, 0, 255)).astype(int)


# ---------------------------------------------------------------------------------------------------------------
# Sound files


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "progressive.jpg", "still.gif", "animated.gif", "rgb.bmp"])
def test_every_format_is_what_tensorflow_makes_of_it(decode, name):
    image = decode(FILES[name])
    assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)
    difference = np.abs(image - by_tensorflow(FILES[name])).max()
    assert difference <= (8 if name.endswith("jpg") else 2)  # a JPEG leaves decoders some freedom


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (1, 501), (501, 1), (31, 33), (64, 64), (700, 300)], ids=str)
def test_every_size_is_what_tensorflow_makes_of_it(decode, size):
    content = encoded(PHOTO.resize(size), "PNG")
    assert np.abs(decode(content) - by_tensorflow(content)).max() <= (0 if size == (32, 32) else 2)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_lossless_formats_hold_the_same_pixels(same, mode):
    for kind, options in [*LOSSLESS, ("GIF", {}), ("BMP", {})]:
        image = PHOTO.quantize(16) if mode == "P" or (kind, mode) == ("GIF", "RGB") else PHOTO.convert(mode)
        assert same(encoded(image, kind, **options), image), kind


def test_lossy_webp_and_cmyk_are_nearly_the_same_picture(decode):
    for content in (FILES["lossy.webp"], encoded(PHOTO.convert("CMYK"), "JPEG", quality=95)):
        assert np.abs(decode(content).astype(int) - decode(FILES["rgb.png"])).max() <= 12


def test_first_image_of_several(decode):
    for name, first in (("animated.webp", "rgb.png"), ("several.jpg", "rgb.jpg")):
        assert np.array_equal(decode(FILES[name]), decode(FILES[first]))


def test_sixteen_bits_are_scaled_not_clipped(same):
    grey = PHOTO.convert("L")
    for low in (0, 255):
        assert same(encoded(Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + low), "PNG"), grey)
    lines = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in np.asarray(PHOTO))
    header = struct.pack(">IIBBBBB", *PHOTO.size, 16, 2, 0, 0, 0)
    colour = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    assert same(b"\x89PNG\r\n\x1a\n" + colour, PHOTO)


# Upright pixels from stored ones, by the EXIF specification's words for row 0 and column 0 of what is stored.
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


def test_every_orientation_is_upright(same):
    for number, upright in UPRIGHT.items():
        for kind, options in LOSSLESS:
            content = encoded(PHOTO, kind, exif=oriented(number), **options)
            assert same(content, Image.fromarray(upright(np.asarray(PHOTO)))), (number, kind)


def test_what_is_transparent_is_white(decode):
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


@pytest.mark.parametrize(("depth", "samples"), [(1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3)])
def test_a_transparent_colour_of_a_png_is_white_at_every_depth(decode, depth, samples):
    """40 x 40 pixels, the left half of that colour, the right one black."""
    colour = 1 if (depth, samples) == (16, 1) else 1 << (depth - 1)  # nearly black is not white
    bits = f"{colour:0{depth}b}" * samples * 20 + "0" * depth * samples * 20
    line = int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", 40, 40, depth, samples - 1, 0, 0, 0)
    parts = {b"IHDR": header, b"tRNS": struct.pack(">H", colour) * samples, b"IDAT": zlib.compress((b"\0" + line) * 40)}
    content = b"\x89PNG\r\n\x1a\n" + b"".join(starmap(chunk, [*parts.items(), (b"IEND", b"")]))
    pixels = decode(content)
    assert (pixels[:, :14] == 255).all() and (pixels[:, 18:] == 0).all()


# ---------------------------------------------------------------------------------------------------------------
# Sound pixels in odd company


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize(
    "exif", [b"", b"garbage!", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01"], ids=str
)
def test_exif_that_cannot_be_read_turns_nothing(same, recwarn, exif, before):
    content = with_chunk(b"eXIf", exif, before)
    assert same(content, PHOTO)
    place = content.index(b"eXIf") + 4 + len(exif)
    assert same(content[:place] + b"\0\0\0\0" + content[place + 4 :], PHOTO)  # nor does a wrong checksum of it
    assert not recwarn.list
    turned = FILES["turned.webp"].replace(b"MM\0*", b"XX\0*", 1)
    assert turned != FILES["turned.webp"] and same(turned, PHOTO)


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_long_comment_is_passed_over_or_named(decode, kind):
    text = zlib.compress(b"a" * 2**22)
    content = {b"zTXt": b"Comment\0\0" + text, b"iTXt": b"Comment\0\1\0\0\0" + text, b"iCCP": b"x\0\0" + text}[kind]
    assert np.array_equal(decode(with_chunk(kind, content)), decode(FILES["rgb.png"]))
    many = FILES["rgb.png"][:-12]
    many += chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (2**20 - 1))) * 70 + FILES["rgb.png"][-12:]
    with pytest.raises(UserError, match="metadata"):
        decode(many)


# ---------------------------------------------------------------------------------------------------------------
# Unsound files


@pytest.mark.parametrize("name", FILES)
def test_cut_anywhere_is_cut_off(decode, name):
    content = FILES[name]
    whole = len(content)
    if name in ("animated.gif", "several.jpg"):  # the first image is not to be whole
        whole = content.index(b"\x21\xf9\x04", 1000) if name == "animated.gif" else len(FILES["rgb.jpg"])
    shortest = [12, 15] if name.endswith("webp") else [4, 9, 13]  # a WebP is told from a WAV after twelve bytes
    for length in [*shortest, 17, 25, 30, 60, *np.linspace(100, whole - 12, 12).astype(int)]:
        with pytest.raises(UserError, match="cut off" if content[length - 1] != ord(";") else ""):
            decode(content[:length])


def test_damage_is_damage(decode):
    content = bytearray(FILES["rgb.png"])
    content[content.index(b"IDAT") + 2000] ^= 1  # its checksum tells
    scan = FILES["rgb.jpg"].index(b"\xff\xda")
    empty = b"GIF89a" + struct.pack("<HH", 10, 10) + b"\0\0\0;"
    no_scan, no_data = FILES["rgb.jpg"][:scan] + b"\xff\xd9", FILES["rgb.png"][:33] + FILES["rgb.png"][-12:]
    for one in (bytes(content), FILES["rgb.jpg"][:scan] + FILES["rgb.jpg"][-2000:], empty, no_scan, no_data):
        with pytest.raises(UserError, match="damaged, or holds no picture"):
            decode(one)


@pytest.mark.parametrize(
    "content",
    [b"", b"GI", b"hello", b"\0" * 1000, b"<svg/>", b"RIFF\x24\0\0\0WAVEfmt ", encoded(PHOTO, "TIFF")],
    ids=len,
)
def test_other_files_are_no_picture(decode, content):
    with pytest.raises(UserError, match="is not a JPEG"):
        decode(content)


@pytest.mark.parametrize("size", [(9500, 9500), (100_000, 100_000)], ids=str)
def test_more_pixels_than_fit_are_refused_by_the_header(decode, recwarn, size):
    png, bmp = bytearray(FILES["rgb.png"]), bytearray(FILES["rgb.bmp"])
    struct.pack_into(">II", png, 16, *size)
    struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
    struct.pack_into("<ii", bmp, 18, *size)
    for content in (png, bmp):
        with pytest.raises(UserError, match="pixels: scale it down"):
            decode(bytes(content))
    assert not recwarn.list


@fuzz(400)
@given(name=st.sampled_from(sorted(FILES)), changes=st.lists(damages, max_size=4))
@example(name="rgb.bmp", changes=[lambda content: b"BM" + b"\xff" * 200])
@example(name="turned.webp", changes=[lambda content: b"RIFF\xff\xff\xff\xffWEBPVP8X" + b"\xff" * 200])
def test_damaged_file_is_an_image_or_one_sentence(decode, name, changes):
    content = FILES[name]
    for damage in changes:
        content = damage(content)
    try:
        image = decode(content)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


@fuzz(300)
@given(exif=st.binary(max_size=100), kind=st.sampled_from(["JPEG", "PNG", "WEBP"]))
@example(exif=b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff\xff\xff\xff\xff", kind="JPEG")
def test_random_exif_leaves_the_pixels_as_they_are(decode, exif, kind):
    image = Image.new("RGB", (4, 4), "red")
    plain = decode(encoded(image, kind))
    assert np.array_equal(decode(encoded(image, kind, exif=b"Exif\0\0" + exif)), plain)


# ---------------------------------------------------------------------------------------------------------------
# Paths


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # reading it would wait for ever
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(predict.MAX_BYTES + 1)
    cases = {
        "fifo": "is no regular file",
        "dangling": "No such file",
        "none": "No such file",
        "empty": "is a directory in which no pictures are found",
        "n" * 300: "File name too long",
        "large.png": "has more than 64 MiB",
    }
    for name, sentence in cases.items():
        with pytest.raises(UserError, match=sentence):
            predict.read_image(tmp_path / name)


def test_directory_stands_for_its_pictures_in_order_and_the_rest_is_counted(tmp_path):
    for name in ("b.png", "a.jpg", "C.JPEG", "notes.txt", "d.tiff", ".hidden", "below/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pictures = [tmp_path / name for name in ("C.JPEG", "a.jpg", "b.png")]
    named = [tmp_path, "x.txt", "n" * 300, tmp_path / "b.png"]
    assert predict.expand(named) == ([*pictures, Path("x.txt"), Path("n" * 300)], 2)
    (tmp_path / "none").mkdir()
    assert predict.expand([tmp_path / "none"]) == ([tmp_path / "none"], 0)
