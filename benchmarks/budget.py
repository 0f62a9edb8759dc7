"""A time budget shared out over rows in the order of their importance: what no longer fits is left out, and says so."""

import time
from collections.abc import Callable
from typing import NamedTuple

from driver import CannotRunError, say

LARGEST_SHARE = 1 / 3  # of the budget, for one row: one that hangs must not cost all others


class Row(NamedTuple):
    """Something to measure.

    `measure` is a generator function of its deadline on the budget's clock. It yields (name, what is kept as JSON) as
    soon as each is there, and raises CannotRunError.
    """

    title: str
    kind: str  # rows of one kind take about as long as each other
    expected: Callable | float  # seconds, until one of the kind has run; or a function without arguments, always asked
    measure: Callable


class Budget:
    """So many seconds from now on.

    Args:
      seconds: of all rows together.
      clock: function without arguments, in seconds.
    """

    def __init__(self, seconds, clock=time.monotonic):
        self.seconds, self.clock, self.began = seconds, clock, clock()
        self.longest = {}  # kind to the most seconds that a row of it took

    def left(self):
        return self.began + self.seconds - self.clock()

    def expected(self, row):
        return row.expected() if callable(row.expected) else self.longest.get(row.kind, row.expected)

    def limit(self, row):
        """The seconds that a row may take: half as much again as expected, at least a third of the budget."""
        return min(self.left(), max(1.5 * self.expected(row), LARGEST_SHARE * self.seconds))

    def run(self, rows, keep):
        """Measures `rows`, the first first.

        Args:
          rows: of Row.
          keep: function of (name, JSON-able) for each thing measured.

        Returns:
          Title to why it was left out, or was not finished.
        """
        skipped = {}
        for row in rows:
            expected, left = self.expected(row), self.left()
            if expected > left:
                skipped[row.title] = f"it takes about {expected:.0f} s, and {max(0.0, left):.0f} s were left"
                continue
            say(f"{left:4.0f} s left: {row.title}")
            began = self.clock()
            try:
                for name, measured in row.measure(began + self.limit(row)):
                    keep(name, measured)
            except CannotRunError as error:
                skipped[row.title] = str(error)
                say(f"            {error}")
            self.longest[row.kind] = max(self.longest.get(row.kind, 0.0), self.clock() - began)
        return skipped
