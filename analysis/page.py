"""report.html, rendered from the template page.html: one self-contained file. Its gallery needs TensorFlow."""

import base64
import functools
import io
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from analysis.formatting import Table, display_name
from analysis.groups import Group
from training.cli import UserError, quiet_stderr

TILES = 24  # per kind


class Gallery(NamedTuple):
    sentence: str  # caption, or why there are no images
    fixed: list  # of tiles: baseline wrong, average right
    broken: list  # of tiles: baseline right, average wrong


class Section(NamedTuple):
    """One group on the page."""

    group: Group
    notes: list  # sentences
    tables: list  # of Table
    figures: list  # of figures.Figure
    gallery: Gallery
    runs: Table
    flags: Table


def make_gallery(group, predictions, problems, data_dir=None):
    """Returns the Gallery of the group's first run with predictions, from the results of `groups.predictions_of`.

    Images come from the TFDS directory `data_dir`, by default the run's own.
    """
    try:
        if not predictions:
            raise UserError("; ".join(problems))
        run, labels = predictions[0].run, predictions[0].labels
        test, names = load_test_split(run.flags.dataset, data_dir or run.flags.data_dir, run.flags.test_size)
        if not np.array_equal(test.labels, labels):
            raise UserError("the predictions were made on other test images than those found")
    except (UserError, OSError) as error:
        return Gallery(f"No gallery of images: {error}.", [], [])
    baseline, average = predictions[0].baseline.argmax(1), predictions[0].ema.argmax(1)
    fixed = np.flatnonzero((baseline != labels) & (average == labels))
    broken = np.flatnonzero((baseline == labels) & (average != labels))

    def tile(index):
        truth, raw, ema = (names[classes[index]] for classes in (labels, baseline, average))
        return {"image": test.images[index], "truth": truth, "baseline": raw, "average": ema}

    sentence = (
        f"{run.path}, {len(labels):,} test images: only the average ({display_name(group.ema_label)}) gets "
        f"{len(fixed):,} right, only its baseline ({display_name(group.baseline)}) {len(broken):,}. The first {TILES} "
        "of each are shown."
    )
    return Gallery(sentence, list(map(tile, fixed[:TILES])), list(map(tile, broken[:TILES])))


@functools.cache
def load_test_split(dataset, data_dir, test_size):
    """Returns the test split of `data.load`, without downloading anything, and its class names."""
    with quiet_stderr():
        import tensorflow.compat.v1 as tf

        import data

    tf.disable_eager_execution()
    loaded = data.load(dataset, data_dir, None, test_size, download=False)
    return loaded.test, loaded.class_names


def render(**content):
    """Returns the HTML of the page from the variables of the template; text from runs and paths is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,  # a misspelt name raises instead of leaving an empty cell
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "png": png}
    return environment.get_template("page.html").render(content)


def as_json(section):
    """Returns a group's part of report.json: tables, and accuracies at the last epoch by label and seed."""
    group = section.group
    numbers = {"title": group.title, "average": group.ema_label, "against": group.baseline, "epoch": group.epochs[-1]}
    accuracy = {label: values.tolist() for label, values in group.final.items()}
    tables = [table._asdict() for table in section.tables]
    return numbers | {"seeds": group.seeds, "accuracy": accuracy, "notes": section.notes, "tables": tables}


def png(image):
    """Returns PNG bytes of an image [H, W, C] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png")
    return buffer.getvalue()


def data_uri(content, kind):
    """Returns a data: URI of bytes of a MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
