"""Corrupt files, by hand and at random."""

import contextlib
import resource

from hypothesis import settings
from hypothesis import strategies as st

from support.files import contents


def flip_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def delete(file):
    file.unlink()


@contextlib.contextmanager
def limited_file_size(size):
    """Limits the files that this process writes to `size` bytes, like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fuzz(examples):
    """Returns the decorator of a reproducible hypothesis test."""
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None)


def _replacement(position, removed, noise):
    def damage(content):
        start = position % (len(content) + 1)
        return content[:start] + noise + content[start + removed :]

    return damage


def _flip(position, bit):
    def damage(content):
        index = position % max(1, len(content))
        return content[:index] + bytes(byte ^ 1 << bit for byte in content[index : index + 1]) + content[index + 1 :]

    return damage


positions = st.integers(0, 10**6)
noise = st.one_of(st.just(b""), st.binary(max_size=20))
# Functions from bytes to bytes: truncated, one bit flipped, or some bytes changed, removed or inserted.
damages = st.one_of(
    st.builds(_flip, positions, st.integers(0, 7)),
    st.builds(_replacement, positions, st.sampled_from([0, 1, 20, 10**9]), noise),
)


@contextlib.contextmanager
def damaged(file, content):
    """Replaces the file's content; afterwards checks that nothing in its directory changed, and restores it.

    Yields:
      bool: the content differs.
    """
    original = file.read_bytes()
    file.write_bytes(content)
    before = contents(file.parent)
    try:
        yield content != original
        assert contents(file.parent) == before
    finally:
        file.write_bytes(original)
