"""The report: the executed notebooks and a summary of what they recorded, as a website.

`sources` lays out a Quarto website project in `reports/<profile>/`; `render` turns it into `site/` with Quarto, or,
where that is not installed, with nbconvert. Nothing is executed here: every number comes from `metrics/*.json`, and
every figure from an executed notebook.
"""
