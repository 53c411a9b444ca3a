"""Whole commands measured: `python -m rice_lib.benchmark VERB`, speed as ratios in one run.

Notebook 06 compares engines (`rice_lib.export.benchmark`); here whole commands are compared, and what they leave out.
"""
