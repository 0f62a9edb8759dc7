"""report.html: one file with everything inside it, which opens from disk and asks the network for nothing."""

import base64
import io
from html import escape

import matplotlib.image

from analysis.tables import Table

TITLE = "Raw weights and their exponential moving average"
# The policy makes the browser itself refuse whatever is not in the file.
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
"""
STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1a1a1a; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
main { max-width: 80rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.3rem; line-height: 1.3; border-top: 2px solid #1a1a1a; padding-top: 1rem; margin-top: 2.5rem; }
h3 { font-size: 1.05rem; margin-bottom: .5rem; }
a { color: #00518a; }
.scroll { overflow-x: auto; margin: 0 0 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #c8c8c8; text-align: right; white-space: nowrap; }
th:first-child, .text { text-align: left; }
th { font-weight: 600; }
@media (max-width: 30rem) { th, td { padding: .3rem .35rem; } }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1.5rem; }
.figures figure { max-width: 40rem; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: 1rem .75rem; }
.tiles img { width: 96px; height: 96px; image-rendering: pixelated; }
.tiles figcaption { line-height: 1.35; }
.right { color: #00513a; font-weight: 600; }
.wrong { color: #8f3000; }
.note { border-left: 4px solid #e69f00; padding-left: .75rem; }
"""


def page(sections):
    """The page's HTML, of the sections' HTML."""
    return (
        f"{HEAD}<title>{TITLE}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{TITLE}</h1>\n"
        "<p>Test accuracy of a classifier and of the same classifier with averaged (EMA) weights, at the last epoch "
        "and never at the best one. Runs that differ only by seed make one group.</p>\n"
        f"{''.join(sections)}</main>\n</body>\n</html>\n"
    )


def section(group, tables, figures, gallery):
    """One group of runs: notes, tables, figures, gallery, and the flags.

    Args:
      tables: of Table; the last, of the runs, goes to the end.
      figures: name to (caption, SVG text).
      gallery: Gallery.
    """
    *first, runs = tables
    drawn = "".join(_figure(caption, svg) for caption, svg in figures.values())
    settings = [[name, value] for name, value in group.shape.items()]
    return (
        f"<section>\n<h2>{escape(group.title)}</h2>\n"
        + "".join(f'<p class="note">{escape(note)}</p>\n' for note in group.notes)
        + "".join(map(_table, first))
        + f'<div class="figures">\n{drawn}</div>\n{_gallery(gallery)}{_table(runs)}'
        + "<details>\n<summary>Every flag that shapes the numbers</summary>\n"
        + _table(Table("Flags of every run of this group", ["flag", "value"], settings))
        + "</details>\n</section>\n"
    )


def _table(table):
    """A heading, and the table in a box that scrolls; the box has a tab stop, so that a keyboard can scroll it too."""
    columns = zip(*table.rows, strict=True)
    kinds = [' class="text"' if any(map(_is_words, column)) else "" for column in columns]
    header = "".join(
        f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, table.header, strict=True)
    )
    rows = "".join(_row(kinds, row) for row in table.rows)
    return (
        f"<h3>{escape(table.caption)}</h3>\n"
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.caption)}">\n'
        f"<table>\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</div>\n"
    )


def _row(kinds, row):
    first, *others = row
    cells = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], others, strict=True))
    return f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'


def _is_words(text):
    return any(character.isalpha() for character in text)


def _figure(caption, svg):
    """An image, not inline SVG: the ids inside one figure cannot clash with those of the next."""
    source = _data_uri("image/svg+xml", svg.encode())
    return (
        f'<figure><img src="{source}" alt="{escape(caption)}">\n<figcaption>{escape(caption)}</figcaption></figure>\n'
    )


def _gallery(gallery):
    html = f"<h3>What EMA changes</h3>\n<p>{escape(gallery.sentence)}</p>\n"
    for title, tiles in (("Fixed by EMA", gallery.fixed), ("Broken by EMA", gallery.broken)):
        if tiles:
            html += f'<h3>{title}</h3>\n<div class="tiles">\n{"".join(map(_tile, tiles))}</div>\n'
    return html


def _tile(tile):
    lines = [f"is {escape(tile.truth)}"]
    for name, answer in (("raw", tile.raw), ("EMA", tile.ema)):
        verdict = "right" if answer == tile.truth else "wrong"
        lines.append(f'<span class="{verdict}">{name}: {escape(answer)}</span>')
    alt = f"test image of class {tile.truth}"
    return (
        f'<figure><img src="{_data_uri("image/png", png(tile.image))}" width="96" height="96" alt="{escape(alt)}">'
        f"<figcaption>{'<br>'.join(lines)}</figcaption></figure>\n"
    )


def png(image):
    """PNG bytes of an image [H, W, 3] uint8."""
    buffer = io.BytesIO()
    matplotlib.image.imsave(buffer, image, format="png")
    return buffer.getvalue()


def _data_uri(kind, content):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
