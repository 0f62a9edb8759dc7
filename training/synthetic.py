"""Synthetic images: a stand-in for CIFAR-10 that needs no download."""

import numpy as np

CLASSES, SIDE = 10, 32  # images are SIDE x SIDE pixels
IMAGE_SHAPE = (SIDE, SIDE, 3)
CLASS_NAMES = tuple(f"class {number}" for number in range(CLASSES))
SIZES = {"train": 8192, "test": 2048}


def load(_data_dir, sizes, _download):
    """Returns ({"train" and "test": (images, labels)}, "synthetic"); `sizes` limits each split, unless it is None."""
    return {split: draw(size, seed, sizes[split]) for seed, (split, size) in enumerate(SIZES.items(), 1)}, "synthetic"


def draw(size, seed, first=None):
    """Draws images [N, *IMAGE_SHAPE] uint8 and labels [N] int64: the `first` images of a set of `size`, or all of them.

    The set is learnable, but not trivially separable, and a pure function of the arguments. Each class is a smooth
    random pattern. An image blends the pattern of its class with another pattern of up to nearly the same weight. Both
    are shifted on a torus; contrast, brightness and pixel noise vary.
    """
    patterns = _smooth_patterns(np.random.default_rng(0))
    random = np.random.default_rng([seed, 7])
    labels = random.integers(0, CLASSES, size)
    others = (labels + random.integers(1, CLASSES, size)) % CLASSES
    share = random.uniform(0.0, 0.48, (size, 1, 1, 1)).astype(np.float32)
    shifts = random.integers(0, SIDE, (4, size))
    contrast = random.uniform(20, 60, (size, 1, 1, 1)).astype(np.float32)
    brightness = random.uniform(-30, 30, (size, 1, 1, 3)).astype(np.float32)
    # All numbers but the noise are drawn for every image, so that a prefix does not depend on its size.
    part = slice(first)
    own = _shifted(patterns, labels[part], *shifts[:2, part])
    other = _shifted(patterns, others[part], *shifts[2:, part])
    images = (1 - share[part]) * own + share[part] * other
    noise = random.standard_normal(images.shape, dtype=np.float32)
    pixels = 127.5 + brightness[part] + contrast[part] * images + 40 * noise
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels[part]


def _smooth_patterns(random):
    """Returns [CLASSES, *IMAGE_SHAPE] float32 periodic patterns of low frequency, each of mean 0 and variance 1."""
    spectrum = np.fft.fft2(random.standard_normal((CLASSES, *IMAGE_SHAPE)), axes=(1, 2))
    low = np.abs(np.fft.fftfreq(SIDE, 1 / SIDE)) <= 4
    patterns = np.fft.ifft2(spectrum * np.outer(low, low)[None, :, :, None], axes=(1, 2)).real
    patterns -= patterns.mean(axis=(1, 2, 3), keepdims=True)
    return (patterns / patterns.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


def _shifted(patterns, classes, down, right):
    """Returns the pattern of each class [N], shifted on a torus by `down` and `right` pixels [N]."""
    rows = (np.arange(SIDE) + down[:, None]) % SIDE
    columns = (np.arange(SIDE) + right[:, None]) % SIDE
    return patterns[classes[:, None, None], rows[:, :, None], columns[:, None, :]]
