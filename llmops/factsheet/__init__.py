"""Fact sheets: the recorded facts about a release or a tabular model, on one page.

`collecting.py` builds a release's sheet from the stores and `tabular.py` a tabular model's, both with `history.py`;
`contents.py` defines what a sheet holds, `limits.py` the known limits. `sheet.jinja` renders it with one of two sets of
blocks (`rendering.py`).
"""
