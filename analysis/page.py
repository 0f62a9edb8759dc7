"""report.html, of the template page.html: one file with everything in it; its gallery of images needs TensorFlow."""

import base64
import functools
import io
import os
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from analysis.formatting import Table, display_name
from analysis.groups import Group
from training.cli import UserError

TILES = 24  # of each kind


class Tile(NamedTuple):
    """One test image [32, 32, 3] uint8, and class names."""

    image: np.ndarray
    truth: str
    baseline: str
    average: str


class Gallery(NamedTuple):
    sentence: str  # what is format_number, or why nothing is
    fixed: list  # of Tile: baseline wrong, average right
    broken: list  # of Tile: baseline right, average wrong


class Section(NamedTuple):
    """What the page says of one group."""

    group: Group
    notes: list  # sentences
    tables: list  # of Table
    figures: list  # of figures.Drawn
    gallery: Gallery
    runs: Table
    flags: Table


def gallery(group, found, missing, data_dir=None):
    """The gallery of the group's first run that left predictions.

    Args:
      found, missing: of `groups.predictions_of`.
      data_dir: TFDS directory of the images; None for the run's own.
    """
    try:
        if not found:
            raise UserError("; ".join(missing))
        run, labels = found[0].run, found[0].labels
        split, names = load_test_split(run.flags.dataset, data_dir or run.flags.data_dir, run.flags.test_size)
        if not np.array_equal(split.labels, labels):
            raise UserError("the predictions were made on other test images than those found")
    except (UserError, OSError) as error:  # a disk that fails is no reason to have no report
        return Gallery(f"No gallery of images: {error}.", [], [])
    baseline, average = found[0].baseline.argmax(1), found[0].ema.argmax(1)
    fixed, broken = ((baseline != labels) & (average == labels), (baseline == labels) & (average != labels))
    sentence = (
        f"Of {len(labels):,} test images {run.path} has {fixed.sum():,} right by its average ({display_name(group.average)}) "
        f"and wrong by its baseline ({display_name(group.against)}), and {broken.sum():,} the other way round. Shown are the "
        f"first of each in the order of the test set, at most {TILES}."
    )

    def tiles(kind):
        chosen = np.flatnonzero(kind)[:TILES]
        return [Tile(split.images[it], *(names[answer[it]] for answer in (labels, baseline, average))) for it in chosen]

    return Gallery(sentence, tiles(fixed), tiles(broken))


@functools.cache
def load_test_split(dataset, data_dir, test_size):
    """The test split of `data.load`, which is not asked to download anything, and the names of its classes."""
    import tensorflow.compat.v1 as tf

    tf.disable_eager_execution()
    import data
    from training import cifar10

    if dataset == "cifar10":
        _, folder = cifar10.location(data_dir)
        if not os.path.exists(folder):  # for this user
            raise UserError(f"no CIFAR-10 is seen in {folder}, name the directory that holds it with --data_dir")
    return data.load(dataset, data_dir, None, test_size).test, data.class_names(dataset)


def page(sections, compared=(), figures=()):
    """The page's HTML; compared: of Table, over several groups; figures: of figures.Drawn, of the same.

    Whatever a run or a path may hold is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a name that the template misspells is no empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "png": png}
    return environment.get_template("page.html").render(sections=sections, compared=compared, figures=figures)


def png(image):
    """PNG bytes of an image [H, W, 3] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def data_uri(content, kind):
    """Bytes as an address that holds them."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
