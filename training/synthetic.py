"""Images to try everything on without a download: a stand-in for CIFAR-10."""

import numpy as np

SIZES = {"train": 8192, "test": 2048}


def load(sizes):
    """{"train" and "test": (images [N, 32, 32, 3] uint8, labels [N] int64)}, the first `sizes[split]` or all."""
    return {split: draw(size, seed, sizes.get(split)) for seed, (split, size) in enumerate(SIZES.items(), 1)}


def draw(size, seed, first=None):
    """Draws a learnable, not trivially separable 10-class set, or the `first` so many of it; a pure function of both.

    A class is a smooth random colour pattern. An image is its class's pattern, shifted on a torus,
    blended with the pattern of another class that may weigh nearly as much, with its own contrast and
    brightness, under pixel noise.

    Returns:
      (images [size, 32, 32, 3] uint8, labels [size] int64).
    """
    patterns = _smooth_patterns(np.random.default_rng(0))
    random = np.random.default_rng([seed, 7])
    labels = random.integers(0, 10, size)
    others = (labels + random.integers(1, 10, size)) % 10
    share = random.uniform(0.0, 0.48, (size, 1, 1, 1)).astype(np.float32)
    shifts = random.integers(0, 32, (4, size))
    contrast = random.uniform(20, 60, (size, 1, 1, 1)).astype(np.float32)
    brightness = random.uniform(-30, 30, (size, 1, 1, 3)).astype(np.float32)
    # The small numbers are drawn of all images, so that the first ones are the same however many are wanted.
    labels, others, share, contrast, brightness = (a[:first] for a in (labels, others, share, contrast, brightness))
    shifts = shifts[:, :first]
    images = (1 - share) * _shifted(patterns, labels, *shifts[:2]) + share * _shifted(patterns, others, *shifts[2:])
    noise = random.standard_normal(images.shape, dtype=np.float32)
    pixels = 127.5 + brightness + contrast * images + 40 * noise
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), labels


def _smooth_patterns(random):
    """[10, 32, 32, 3] float32 periodic patterns of low spatial frequency, mean 0 and variance 1 each."""
    spectrum = np.fft.fft2(random.standard_normal((10, 32, 32, 3)), axes=(1, 2))
    frequency = np.abs(np.fft.fftfreq(32, 1 / 32))
    keep = (frequency[:, None] <= 4) & (frequency[None, :] <= 4)
    patterns = np.fft.ifft2(spectrum * keep[None, :, :, None], axes=(1, 2)).real
    patterns -= patterns.mean(axis=(1, 2, 3), keepdims=True)
    return (patterns / patterns.std(axis=(1, 2, 3), keepdims=True)).astype(np.float32)


def _shifted(patterns, classes, down, right):
    """The pattern of each class [N], shifted on a torus by so many pixels [N] each way."""
    rows, columns = ((np.arange(32) + shift[:, None]) % 32 for shift in (down, right))
    return patterns[classes[:, None, None], rows[:, :, None], columns[:, None, :]]
