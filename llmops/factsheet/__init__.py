"""Fact sheets: the recorded facts about a release or a tabular model, on one page.

`collecting.py` builds a sheet from the stores, with one module for each part; contents.py defines the sheet's parts,
limits.py the known limits. `sheet.jinja` renders it with one of two sets of blocks, those of html.py and markdown.py.
"""
