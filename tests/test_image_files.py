"""Image files of every kind, sound and unsound, as 32x32 pixels or as one sentence."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from training.errors import UserError

import data
from analysis import image_files

COLOURS = np.random.default_rng(3).integers(0, 256, (7, 9, 3)).astype(np.uint8)
PHOTO = Image.fromarray(COLOURS).resize((120, 80), Image.Resampling.BICUBIC)  # smooth, so that JPEG keeps it
GREY = PHOTO.convert("L")
ORIENTATION = 0x0112  # the EXIF tag


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(number):
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


def chunk(kind, content):
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


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
    "palette.bmp": encoded(PHOTO.quantize(16), "BMP"),
    "lossy.webp": encoded(PHOTO, "WEBP", quality=95),
    "lossless.webp": encoded(PHOTO, "WEBP", lossless=True),
    "turned.webp": encoded(PHOTO, "WEBP", lossless=True, exif=oriented(6)),
    "animated.webp": encoded(PHOTO, "WEBP", lossless=True, **OTHERS),
}


@pytest.fixture
def decode(tmp_path):
    """The 32x32 image of a file with this content."""

    def decode(content):
        path = tmp_path / "file"
        path.write_bytes(content)
        return image_files.read_image(path)

    return decode


@pytest.fixture
def same(decode):
    """Whether a file is to the last bit what these pixels are as a plain PNG."""

    def same(content, image):
        return np.array_equal(decode(content), decode(encoded(image.convert("RGB"), "PNG")))

    return same


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
    assert (image.shape, image.dtype) == (data.IMAGE_SHAPE, np.uint8)
    difference = np.abs(image - by_tensorflow(FILES[name])).max()
    assert difference <= (8 if name.endswith("jpg") else 2)  # a JPEG leaves decoders some freedom


@pytest.mark.parametrize("size", [(32, 32), (1, 1), (1, 500), (500, 1), (31, 33), (64, 64), (700, 300)], ids=str)
def test_every_size_is_what_tensorflow_makes_of_it(decode, size):
    content = encoded(PHOTO.resize(size), "PNG")
    assert np.abs(decode(content) - by_tensorflow(content)).max() <= (0 if size == (32, 32) else 2)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "WEBP"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_lossless_formats_hold_the_same_pixels(same, kind, mode):
    image = PHOTO.quantize(16) if mode == "P" or (kind, mode) == ("GIF", "RGB") else PHOTO.convert(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    assert same(encoded(image, kind, **options), image)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palettes_of_a_png(same, mode):
    image = PHOTO.quantize(16) if mode == "P" else PHOTO.convert(mode)
    assert same(encoded(image, "PNG"), image)


def test_lossy_webp_is_nearly_the_same_picture(decode):
    assert np.abs(decode(FILES["lossy.webp"]).astype(int) - decode(FILES["rgb.png"])).max() <= 12


def test_cmyk_jpeg_is_read(decode):
    difference = decode(encoded(PHOTO.convert("CMYK"), "JPEG", quality=95)).astype(int) - decode(FILES["rgb.png"])
    assert np.abs(difference).max() <= 12


@pytest.mark.parametrize(("name", "first"), [("animated.webp", "rgb.png"), ("several.jpg", "rgb.jpg")])
def test_first_image_of_several(decode, name, first):
    assert np.array_equal(decode(FILES[name]), decode(FILES[first]))


def test_sixteen_bits_of_grey_are_scaled_not_clipped(same):
    values = np.asarray(GREY).astype(np.uint16)
    for low in (0, 255):
        assert same(encoded(Image.fromarray(values * 256 + low), "PNG"), GREY)


def test_sixteen_bits_of_colour(same):
    rows = np.asarray(PHOTO).astype(">u2") * 257
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *PHOTO.size, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    assert same(b"\x89PNG\r\n\x1a\n" + content, PHOTO)


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


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("number", UPRIGHT)
def test_every_orientation_is_upright(same, kind, number):
    upright = Image.fromarray(UPRIGHT[number](np.asarray(PHOTO)))
    options = {"lossless": True} if kind == "WEBP" else {}
    assert same(encoded(PHOTO, kind, exif=oriented(number), **options), upright)


def test_photo_held_upright_is_upright(decode):
    """A camera on its side stores the sky at the left and says orientation 6."""
    stored = Image.new("RGB", (120, 80), "green")
    stored.paste("blue", (0, 0, 60, 80))
    pixels = decode(encoded(stored, "JPEG", quality=95, exif=oriented(6))).astype(int)
    assert (pixels[:14, :, 2] > 200).all()
    assert (pixels[18:, :, 2] < 50).all()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA")])
def test_what_is_transparent_is_white(decode, kind, mode):
    image = Image.new(mode, (40, 40), (0,) * len(mode))
    image.paste((0,) * (len(mode) - 1) + (255,), (0, 0, 20, 40))
    pixels = decode(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert (pixels[:, :14] == 0).all()
    assert (pixels[:, 18:] == 255).all()


def test_half_transparent_is_half_white(decode):
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        pixels = decode(encoded(Image.new("RGBA", (40, 40), (0, 100, 200, 128)), kind, **options))
        assert np.abs(pixels - np.array([127, 177, 227])).max() <= 1, kind


@pytest.mark.parametrize(
    ("kind", "transparency", "right"),
    [("PNG", 1, 255), ("GIF", 1, 255), ("PNG", bytes([255, 0]), 255), ("PNG", bytes([255, 128]), 127)],
    ids=str,
)
def test_transparent_colours_of_a_palette_are_white(decode, kind, transparency, right):
    image = Image.new("P", (40, 40), 1)
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.paste(0, (0, 0, 20, 40))
    pixels = decode(encoded(image, kind, transparency=transparency))
    assert (pixels[:, :14] == [10, 20, 30]).all()
    assert np.abs(pixels[:, 18:].astype(int) - right).max() <= 1


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (Image.new("L", (40, 40), 7), 7),
        (Image.new("I;16", (40, 40), 1000), 1000),
        (Image.new("RGB", (40, 40), (1, 2, 3)), (1, 2, 3)),
    ],
    ids=["L", "I;16", "RGB"],
)
def test_a_transparent_colour_is_white(decode, image, transparency):
    assert (decode(encoded(image, "PNG", transparency=transparency)) == 255).all()
    assert (decode(encoded(image, "PNG")) < 10).all()


def test_fourth_byte_of_a_bmp_is_no_alpha(same):
    image = Image.fromarray(np.dstack([np.asarray(PHOTO), np.zeros(PHOTO.size[::-1], np.uint8)]))
    assert same(encoded(image, "BMP"), PHOTO)


def test_bmp_from_the_top_down(same):
    content = bytearray(FILES["rgb.bmp"])
    struct.pack_into("<i", content, 22, -PHOTO.height)
    assert same(bytes(content), PHOTO.transpose(Image.Transpose.FLIP_TOP_BOTTOM))


# ---------------------------------------------------------------------------------------------------------------
# Unsound files

DAMAGED = "^is truncated or damaged: Pillow cannot decode it$"
NO_IMAGE = "^is not a JPEG, PNG, GIF, BMP or WebP image$"


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere_is_one_sentence(decode, name):
    content = FILES[name]
    whole = len(content)
    if name in ("animated.gif", "several.jpg"):  # the first image is not to be whole
        whole = content.index(b"\x21\xf9\x04", 1000) if name == "animated.gif" else len(FILES["rgb.jpg"])
    shortest = [12, 15] if name.endswith("webp") else [4, 9, 13]  # a WebP is told from a WAV after twelve bytes
    for length in [*shortest, 17, 25, 30, 60, *np.linspace(100, whole - 12, 12).astype(int)]:
        with pytest.raises(UserError, match=DAMAGED):
            decode(content[:length])


def test_checksums_of_a_png_are_checked(decode):
    content = bytearray(FILES["rgb.png"])
    content[content.index(b"IDAT") + 2000] ^= 1
    with pytest.raises(UserError, match=DAMAGED):
        decode(bytes(content))


def test_exif_beyond_repair_is_one_sentence(decode, recwarn):
    content = FILES["turned.webp"].replace(b"MM\0*", b"XX\0*", 1)
    assert content != FILES["turned.webp"]
    with pytest.raises(UserError, match=DAMAGED):
        decode(content)
    assert not recwarn.list


def test_pillows_warnings_are_not_shown(decode, recwarn):
    content = FILES["turned.jpg"].replace(b"MM\0*\0\0", b"MM\0*\xff\xff", 1)  # EXIF that is nowhere in the file
    assert content != FILES["turned.jpg"]
    assert np.array_equal(decode(content), decode(FILES["rgb.jpg"]))
    assert not recwarn.list


def test_no_kind_of_error_passes(decode, monkeypatch):
    for error in (OSError, SyntaxError, ValueError, struct.error, EOFError, KeyError, MemoryError, RecursionError):
        monkeypatch.setattr(image_files.ImageOps, "exif_transpose", lambda _, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(UserError, match=DAMAGED):
            decode(FILES["rgb.png"])


def claiming(name, width, height):
    """The file, its header changed to claim another size."""
    content = bytearray(FILES[name])
    if name.endswith("png"):
        struct.pack_into(">II", content, 16, width, height)
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    elif name.endswith("gif"):
        struct.pack_into("<HH", content, 6, width, height)
    elif name.endswith("bmp"):
        struct.pack_into("<ii", content, 18, width, height)
    elif content[12:16] == b"VP8X":
        content[24:30] = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    elif content[12:16] == b"VP8L":
        struct.pack_into("<I", content, 21, (width - 1) | (height - 1) << 14 | 1 << 28)
    elif content[12:16] == b"VP8 ":
        struct.pack_into("<HH", content, 26, width, height)
    else:
        at = content.index(b"\xff\xc2" if name == "progressive.jpg" else b"\xff\xc0")
        struct.pack_into(">HH", content, at + 5, height, width)
    return bytes(content)


BOMB = r"^has more than 50,000,000 pixels: scale it down$"


@pytest.mark.parametrize("size", [(7100, 7100), (16_000, 16_000)], ids=str)
@pytest.mark.parametrize("name", [name for name in FILES if name != "turned.webp"])
def test_bomb_is_refused_by_its_header(decode, name, size, monkeypatch, recwarn):
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # nothing is decoded
    with pytest.raises(UserError, match=BOMB):
        decode(claiming(name, *size))
    assert not recwarn.list


@pytest.mark.parametrize("name", ["rgb.png", "rgb.bmp"])
def test_bomb_of_ten_billion_pixels(decode, name):
    with pytest.raises(UserError, match=BOMB):
        decode(claiming(name, 100_000, 100_000))


def test_frame_larger_than_its_gif_is_refused(decode):
    content = bytearray(FILES["still.gif"])
    struct.pack_into("<HH", content, content.index(b"\x2c\0\0\0\0") + 5, 60_000, 60_000)
    with pytest.raises(UserError, match=BOMB):
        decode(bytes(content))


def test_pillows_own_limit_is_as_before(decode):
    before = Image.MAX_IMAGE_PIXELS
    decode(FILES["rgb.png"])
    with pytest.raises(UserError, match=BOMB):
        decode(claiming("rgb.png", 100_000, 100_000))
    assert Image.MAX_IMAGE_PIXELS == before != image_files.MAX_PIXELS


@pytest.mark.parametrize(
    "content",
    [b"", b"GI", b"hello", b"\0" * 1000, b"<svg/>", b"RIFF\x24\0\0\0WAVEfmt ", encoded(PHOTO, "TIFF")],
    ids=len,
)
def test_other_files_are_no_image(decode, content):
    with pytest.raises(UserError, match=NO_IMAGE):
        decode(content)


def image_or_sentence(decode, content):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_files, "MAX_PIXELS", 100_000)  # so that no example takes long
        try:
            image = decode(content)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            assert (image.shape, image.dtype) == ((32, 32, 3), np.uint8)


def fuzz(examples):
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


@fuzz(400)
@given(
    name=st.sampled_from(sorted(FILES)),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    keep=st.floats(0.5, 1) | st.just(1.0),
)
def test_damaged_file_is_an_image_or_one_sentence(decode, name, damage, keep):
    content = bytearray(FILES[name])
    for where, value in damage:
        content[int(where**3 * (len(content) - 1))] = value  # the header above all
    image_or_sentence(decode, bytes(content[: round(keep * len(content))]))


@fuzz(400)
@given(start=st.sampled_from([b"", *(content[:16] for content in FILES.values())]), rest=st.binary(max_size=200))
@example(start=b"BM", rest=b"\xff" * 200)
@example(start=b"RIFF\xff\xff\xff\xffWEBPVP8X", rest=b"\xff" * 200)
def test_random_bytes_are_an_image_or_one_sentence(decode, start, rest):
    image_or_sentence(decode, start + rest)


@fuzz(400)
@given(exif=st.binary(max_size=100), kind=st.sampled_from(["JPEG", "PNG", "WEBP"]))
@example(exif=b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\xff\xff\xff\xff\xff\xff\xff\xff", kind="JPEG")
def test_random_exif_is_an_image_or_one_sentence(decode, exif, kind):
    image_or_sentence(decode, encoded(Image.new("RGB", (4, 4)), kind, exif=b"Exif\0\0" + exif))


# ---------------------------------------------------------------------------------------------------------------
# Paths


def test_large_file_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(image_files.MAX_BYTES + 1)
    monkeypatch.setattr(type(path), "read_bytes", None)
    with pytest.raises(UserError, match="has more than 64 MiB"):
        image_files.read_image(path)


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # reading it would wait for ever
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    cases = {
        "fifo": "is not a regular file",
        "dangling": "does not exist",
        "none": "does not exist",
        "empty": "is a directory without files",
        "n" * 300: r"cannot be read \(File name too long\)",
    }
    for name, sentence in cases.items():
        with pytest.raises(UserError, match=f"^{sentence}$"):
            image_files.read_image(tmp_path / name)


def test_what_cannot_be_read_says_why(tmp_path, monkeypatch):
    path = tmp_path / "file.png"
    path.write_bytes(FILES["rgb.png"])

    def denied(_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(path), "read_bytes", denied)
    with pytest.raises(UserError, match=r"^cannot be read \(Permission denied\)$"):
        image_files.read_image(path)


def test_directory_stands_for_its_files_in_order(tmp_path):
    for name in ("b.png", "a.jpg", ".hidden", "below/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_files.expand([tmp_path, "x.png"]) == [tmp_path / "a.jpg", tmp_path / "b.png", Path("x.png")]
    (tmp_path / "none").mkdir()
    assert image_files.expand([tmp_path / "none"]) == [tmp_path / "none"]


def test_tensorflow_is_not_imported():
    code = "import sys, analysis.image_files; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
