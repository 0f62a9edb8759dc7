"""report.html, of the template page.html: one file with everything inside it, which asks the network for nothing."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib.image

from analysis.gallery import Gallery
from analysis.tables import Table


class Section(NamedTuple):
    """What the page says of one group."""

    title: str
    notes: list  # sentences
    tables: list  # of Table
    figures: list  # of (caption, SVG text)
    gallery: Gallery
    runs: Table
    flags: Table


def page(sections, compared=(), figures=()):
    """The page's HTML; compared: of Table, over several groups; figures: of (caption, SVG text), of the same."""
    return environment().get_template("page.html").render(sections=sections, compared=compared, figures=figures)


def environment():
    """Escapes whatever a run or a path may hold, and stops at a name that the template misspells."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"data_uri": data_uri, "png": png}
    environment.tests["words"] = is_words
    return environment


def is_words(text):
    """Whether a cell of a table is text, not a number."""
    return any(character.isalpha() for character in text)


def png(image):
    """PNG bytes of an image [H, W, 3] uint8."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, image, format="png")
    return buffer.getvalue()


def data_uri(content, kind):
    """The content, bytes or text, as an address that holds it."""
    content = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
