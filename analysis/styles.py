"""How the report's figures look: line style as well as colour tells curves apart, and the colours are those of Okabe &
Ito's palette, which colour-blind readers can tell apart too."""

BLUE, VERMILION, GREEN, PURPLE, BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
YELLOW = "#F0E442"
SIZE = (5, 3.6)  # inches; at 400 pixels wide the letters are still 11 pixels high
STYLE = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "report",  # the same runs give the same bytes
}
RAW = {"raw": (BLUE, "--"), "raw/recomputed": (BLACK, (0, (1, 1.5)))}  # label to colour and line style

# With fewer seeds a 95% t-interval says little (of two it is 18 standard errors long) and hides what was measured.
BAND_FROM = 5
