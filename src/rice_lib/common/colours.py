"""Colours of text and paper in figures and pictures, as matplotlib and Pillow both read them."""

INK = "#22303C"
MUTED = "#66717C"
PAPER = "#FFFFFF"
