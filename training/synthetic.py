"""Images to try everything on without a download: a stand-in for CIFAR-10."""

import numpy as np

SIZES = {"train": 8192, "test": 2048}


def load():
    """{"train" and "test": (images [N, 32, 32, 3] uint8, labels [N] int64)}."""
    return {split: draw(size, seed) for seed, (split, size) in enumerate(SIZES.items(), 1)}


def draw(size, seed):
    """Draws a learnable, not trivially separable 10-class set; a pure function of its arguments.

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
    share = random.uniform(0.0, 0.48, size)[:, None, None, None].astype(np.float32)
    images = (1 - share) * _shifted(patterns, labels, random) + share * _shifted(patterns, others, random)
    contrast = random.uniform(20, 60, (size, 1, 1, 1)).astype(np.float32)
    brightness = random.uniform(-30, 30, (size, 1, 1, 3)).astype(np.float32)
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


def _shifted(patterns, classes, random):
    size = len(classes)
    rows = (np.arange(32) + random.integers(0, 32, (size, 1))) % 32
    columns = (np.arange(32) + random.integers(0, 32, (size, 1))) % 32
    return patterns[classes[:, None, None], rows[:, :, None], columns[:, None, :]]
