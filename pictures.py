"""Image files of any size as the 32x32 pixels that the classifiers take; nothing that a file says is trusted.

A JPEG, PNG, GIF (its first frame) or BMP, grey or in colour, 8 or 16 bits, is cropped to its central square and
resized with antialiasing; what is transparent is put on white. WebP is left out because TensorFlow 2.21 writes past
its buffer and crashes on an animated one.
"""

import contextlib
import os
import struct
from pathlib import Path

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

import data
import devices
from errors import UserError
from quiet import captured_stderr

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 50_000_000  # of the image as decoded: a file of a few kilobytes can claim any number of them
DAMAGED = "is truncated or damaged: TensorFlow cannot decode it"


def expand(names):
    """The paths named; in the place of a directory its files, sorted, without hidden ones and those further below."""
    paths = []
    for path in map(Path, names):
        files = sorted(p for p in path.iterdir() if not p.is_dir() and p.name[0] != ".") if path.is_dir() else []
        paths += files or [path]
    return paths


class Decoder:
    """TensorFlow's image kernels, in a graph of their own on the CPU; calling it reads one file."""

    def __init__(self):
        with tf.Graph().as_default(), tf.device("CPU:0"):
            self.data = tf.placeholder(tf.string, [])
            self.jpeg_shape = tf.image.extract_jpeg_shape(self.data)
            self.image = tf.image.decode_image(self.data, channels=0, expand_animations=False)
            self.square = tf.placeholder(tf.float32, [None, None, 3])
            small = tf2.image.resize(self.square, data.IMAGE_SHAPE[:2], antialias=True)
            self.small = tf.saturate_cast(tf.round(small), tf.uint8)
            self.session = devices.session()

    def __call__(self, path):
        """The image of a file, [32, 32, 3] uint8.

        Raises:
          UserError: why there is none.
        """
        content = read(path)
        try:
            check_size(*self.header_size(content))
            if content[:3] == b"GIF":
                content = first_frame(content)
        except (struct.error, IndexError):
            raise UserError(DAMAGED) from None
        image = central_square(self.run(self.image, content))
        return self.session.run(self.small, {self.square: to_rgb(image, content)})

    def run(self, tensor, content):
        """`tensor` for the bytes of a file; what the kernels write to stderr is theirs."""
        with captured_stderr(), contextlib.suppress(tf.errors.OpError):
            return self.session.run(tensor, {self.data: content})
        raise UserError(DAMAGED)

    def header_size(self, content):
        """(width, height) that the file claims to have."""
        if content[:3] == b"\xff\xd8\xff":
            height, width, _ = self.run(self.jpeg_shape, content)
            return int(width), int(height)
        if content[:4] == b"\x89PNG":
            return struct.unpack_from(">II", content, 16)
        if content[:4] == b"GIF8":
            return struct.unpack_from("<HH", content, 6)
        if content[:2] == b"BM":
            width, height = struct.unpack_from("<ii", content, 18)
            return abs(width), abs(height)  # a negative height is that of an image stored from the top down
        raise UserError("is no JPEG, PNG, GIF or BMP image")


def read(path):
    """The bytes of a regular file of at most MAX_BYTES."""
    if path.is_dir():
        raise UserError("is a directory without files")
    if not path.exists():
        raise UserError("does not exist")
    if not path.is_file():
        raise UserError("is no regular file")
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise UserError(f"has more than {MAX_BYTES >> 20} MiB: scale it down")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from None


def check_size(width, height):
    if width * height > MAX_PIXELS:
        raise UserError(f"has {width}x{height} pixels, more than {MAX_PIXELS:,}: scale it down")


def first_frame(gif):
    """The GIF cut off after its first frame: TensorFlow would decode all the others, only to throw them away.

    Raises:
      UserError: the frame is larger than MAX_PIXELS.
      IndexError, struct.error: the file ends before.
    """

    def colours(flags):
        return 3 << (flags & 7) + 1 if flags & 0x80 else 0

    def after_blocks(at):
        while gif[at]:
            at += gif[at] + 1
        return at + 1

    at = 13 + colours(gif[10])
    while gif[at] == 0x21:  # an extension
        at = after_blocks(at + 2)
    check_size(*struct.unpack_from("<HH", gif, at + 5))
    end = after_blocks(at + 10 + colours(gif[at + 9]) + 1)
    return gif[:end] + b";"


def central_square(image):
    """The largest square in the middle of [H, W, C]: the proportions stay, the ends of the longer side go."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def to_rgb(image, content):
    """[H, W, C] uint8, C from 1 to 4, to [H, W, 3] float32.

    Args:
      image: as TensorFlow decoded it.
      content: the file. In a BMP, TensorFlow leaves indices into the palette as they are, and the fourth channel is
        seldom an alpha channel.
    """
    if content[:2] == b"BM":
        image = bmp_palette(content)[image[..., 0]] if image.shape[2] == 1 else image[..., :3]
    image = image.astype(np.float32)
    if image.shape[2] in (2, 4):
        alpha = image[..., -1:] / 255
        image = image[..., :-1] * alpha + 255 * (1 - alpha)
    return np.broadcast_to(image, (*image.shape[:2], 3))


def bmp_palette(content):
    """The palette of a BMP with 8 bits a pixel, [256, 3] uint8; black where the file has no colour."""
    (header,) = struct.unpack_from("<I", content, 14)
    (pixels,) = struct.unpack_from("<I", content, 10)
    colours = np.frombuffer(content[14 + header : pixels][:1024], np.uint8)
    colours = colours[: len(colours) // 4 * 4].reshape(-1, 4)[:, 2::-1]
    return np.pad(colours, ((0, 256 - len(colours)), (0, 0)))
