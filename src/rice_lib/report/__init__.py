"""The report: figures and tables for the notebooks, and the website of a run."""
