"""Style of all figures, and curves.png of a run.

matplotlib is imported when a figure is drawn, so a broken installation does not stop a run.
"""

import io
import logging
import textwrap

from training.files import write_whole
from training.labels import Label, baseline_of, choose, primary
from training.log import log

# Okabe & Ito's palette for colour-blind readers. Line styles tell the curves apart too.
BLUE, VERMILION, GREEN, PURPLE, YELLOW, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#F0E442", "#000000"
EMA = (VERMILION, "-")  # colour and line style
RAW = {"raw": (BLUE, "--"), "raw/recomputed": (BLACK, (0, (1, 1.5)))}
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
    """Writes curves.png into a run directory: test accuracy of raw weights, best average and its baseline."""
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
    """Adds the legend above the axes, where it hides no curve; returns the axes."""
    axes.figure.legend(loc="outside upper center")
    return axes


def new_axes(x, y, size=SIZE):
    """Returns the axes of a new figure of `size` inches; x and y are axis labels."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    axes = Figure(figsize=size, layout="constrained").subplots()
    axes.set(xlabel=x, ylabel=y)
    return axes


def render_figure(name, draw, *formats):
    """Renders the figure of the axes that `draw()` returns, independent of the user's matplotlibrc.

    Returns:
      A list with the bytes of each format ("png" or "svg"); None, after a warning, if it cannot be drawn.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns if it cannot write a cache
    files = [io.BytesIO() for _ in formats]
    try:
        import matplotlib

        with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
            figure = draw().figure
            for file, kind in zip(files, formats, strict=True):
                figure.savefig(file, format=kind, metadata={"Date": None})
    except Exception as error:  # fonts or caches: not a reason to stop a run
        log.warning(f"{name} could not be drawn: {textwrap.shorten(str(error), 200)}")
        return None
    return [file.getvalue() for file in files]
