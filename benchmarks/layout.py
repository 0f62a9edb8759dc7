"""Tables, a header and rows of strings each: for a terminal and as Markdown; and what cells look like."""


def fixed_width(header, rows):
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells):
        first, *others = (
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others])

    return "\n".join([line(header), line(["-" * width for width in widths]), *map(line, rows)])


def as_markdown(header, rows):
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def show(value, form):
    """A number in a format, or a dash for None; a paired.Estimate with its interval."""
    if value is None:
        return "-"
    if not isinstance(value, tuple):
        return form.format(value)
    interval = "" if value.low is None else f" [{form.format(value.low)}, {form.format(value.high)}]"
    return form.format(value.value) + interval


def target(name, value, form, sign="", bound=None):
    """A row of targets: a measured value, the bound it is held to, and whether it is met; None without a value."""
    if value is None:
        return None
    held_to = "-" if bound is None else f"{sign} {form.format(bound)}"
    return [name, show(value, form), held_to, verdict(value, sign, bound)]


def targets(rows):
    """(header, rows) of what was measured, out of the rows that `target` made."""
    return ["target", "measured", "bound", "met"], [row for row in rows if row]


def verdict(value, sign, bound):
    """Whether a value, or all of a paired.Estimate's interval, is within its bound."""
    if bound is None:
        return "-"
    values = [one for one in value if one is not None] if isinstance(value, tuple) else [value]
    met = {one >= bound if sign == ">=" else one <= bound for one in values}
    return "unsure" if len(met) == 2 else "yes" if met == {True} else "no"
