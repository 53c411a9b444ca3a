"""The five varieties, in the order of their class numbers.

Everything that maps a class number to a name takes it from here when it makes a model, and from the model's own
metadata when it uses one.
"""

VARIETIES: tuple[str, ...] = ("Arborio", "Basmati", "Ipsala", "Jasmine", "Karacadag")
"""Class names; the index is the class number (alphabetical, as in the reference project's `labels2id`)."""

LABEL_TO_ID: dict[str, int] = {name: number for number, name in enumerate(VARIETIES)}

COLOURS: tuple[str, ...] = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")
"""A colour for each, in figures and on trays: Okabe and Ito's colour-blind safe set (jfly.uni-koeln.de/color), without
pale ones."""
