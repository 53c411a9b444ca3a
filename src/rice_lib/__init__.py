"""Rice varieties classified from photographs: the library that the notebooks and the commands share."""

__version__ = "0.1.0"
