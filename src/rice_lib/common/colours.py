"""Colours of figures and pictures, as matplotlib and Pillow both read them."""

INK = "#22303C"
MUTED = "#66717C"
PAPER = "#FFFFFF"

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
"""One a class: Okabe and Ito's colour-blind safe set (jfly.uni-koeln.de/color), the pale yellow last. Beyond eight they
come again, with another marker or line."""
