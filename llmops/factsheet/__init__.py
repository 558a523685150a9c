"""Fact sheets: what the registry knows of a release or a tabular model, on one page.

`collecting.py` puts a sheet together from the stores, with one module for each part; contents.py says what it is made
of, limits.py what it has to admit. `sheet.jinja` tells it, in two sets of blocks: html.py and markdown.py write them.
"""
