"""Fact sheets: the recorded facts about a release or a tabular model, on one page.

`collecting.py` builds a sheet from the stores, with `history.py`; `contents.py` defines what a sheet holds.
`rendering.py` derives its known limits and writes it by `sheet.jinja`, with one of two sets of blocks.
"""
