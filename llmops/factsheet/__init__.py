"""Fact sheets: what the registry knows of a release or a tabular model, on one page.

contents.py says what a sheet is made of, limits.py what it has to admit, layout.py and its parts in which order and
words it is told; markdown.py and html.py write that down. `collecting.py` and its parts put a
sheet together from the stores; the others read none.
"""
