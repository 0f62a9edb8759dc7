"""The style of all figures, and curves.png of a run.

matplotlib is imported when a figure is drawn: a figure that cannot be drawn does not end a run.
"""

import io
import logging
import os
import textwrap

from training.files import write_whole
from training.labels import Label, baseline_of, choose, primary
from training.log import log

# Okabe & Ito's palette, which colour-blind readers can tell apart too. Line styles tell curves apart as well.
BLUE, VERMILION, GREEN, PURPLE, YELLOW, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#F0E442", "#000000"
EMA = (VERMILION, "-")  # colour and line style
RAW = {"raw": (BLUE, "--"), "raw/recomputed": (BLACK, (0, (1, 1.5)))}  # the same, by label
SIZE = (5, 4)  # inches; at 400 pixels wide the letters are still 11 pixels high
STYLE = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "savefig.dpi": 160,
    "svg.hashsalt": "ema",  # the same numbers give the same bytes
}


def draw_curves(path, rows):
    """Draws curves.png: test accuracy over epochs of the raw weights, the average chosen and its fair baseline."""
    epochs, labels = [row["epoch"] for row in rows], rows[-1]["classifiers"]
    average = choose(primary(labels), [rows[-1].get("validation", {})]).label

    def draw():
        axes = new_axes("epoch", "test accuracy (%)")
        for label in dict.fromkeys(["raw", baseline_of(average, labels), average]):
            values = [100 * row["classifiers"][label] for row in rows]
            name = f"{Label.parse(label).display_name}, {values[-1]:.2f} at the end"
            draw_curve(axes, epochs, values, *RAW.get(label, EMA), name)
        return add_legend(axes)

    if png := render_figure("curves.png", draw, "png"):
        write_whole(path / "curves.png", *png)


def draw_curve(axes, epochs, values, colour, style, name):
    """Draws a curve over epochs."""
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.plot(epochs, values, linestyle=style, color=colour, linewidth=2, marker="o", markersize=3, label=name)


def add_legend(axes):
    """The axes, and the names of their curves above them, where they strike nothing through."""
    axes.figure.legend(loc="outside upper center")
    return axes


def new_axes(x, y, size=SIZE):
    """The axes of a new figure of `size` inches, with names for x and y; `axes.figure` is the figure."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    axes = Figure(figsize=size, layout="constrained").subplots()
    axes.set(xlabel=x, ylabel=y)
    return axes


def render_figure(name, draw, *formats):
    """A figure in our style over matplotlib's defaults, whatever a matplotlibrc or the environment asks for.

    Args:
      name: of the figure, for a warning in the log where it cannot be drawn.
      draw: function without arguments that returns the axes.
      formats: "png" or "svg".

    Returns:
      For each of `formats` the bytes of a file; None where it cannot be drawn.
    """
    os.environ["MPLBACKEND"] = "agg"  # without a screen; of an unknown one the import fails
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it misses a directory for its cache, and needs none
    files = [io.BytesIO() for _ in formats]
    try:
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            figure = draw().figure
            for file, kind in zip(files, formats, strict=True):
                figure.savefig(file, format=kind, metadata={"Date": None})
    except Exception as error:  # fonts, caches, a directory for temporary files: nothing that a run has to end for
        log.warning(f"{name} could not be drawn: {textwrap.shorten(str(error), 200)}")
        return None
    return [file.getvalue() for file in files]
