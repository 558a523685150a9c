"""Notebooks made from guides, so that there is one text to keep true.

Text becomes Markdown cells, a ```python block a code cell, a ```bash block whose lines all begin with `llmops` a code
cell of `!llmops …`. Other blocks (output, commands that run until they are stopped) stay text. Solutions, folded on the
page, are cells like any other. Nothing is run: a notebook has no outputs until its reader runs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FOLDS = re.compile(r"^</?details>\n?", re.MULTILINE)
_PICTURES = "%matplotlib inline"  # shows figures that were made without pyplot, too
_SUMMARY = re.compile(r"^<summary>(.*)</summary>$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Cell:
    kind: Literal["markdown", "code"]
    source: str


def notebook(guide: Path) -> str:
    """The notebook of a guide, as the text of an `.ipynb` file; the same for the same guide."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    made = new_notebook(
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    makers = {"markdown": new_markdown_cell, "code": new_code_cell}
    for number, cell in enumerate(cells(guide.read_text("utf-8")), start=1):
        made.cells.append(makers[cell.kind](cell.source, id=f"{guide.stem}-{number:03d}"))
    if guide.parent.name == "labs":
        made.cells.insert(1, new_code_cell(_PICTURES, id=f"{guide.stem}-pictures"))
    nbformat.validate(made)
    return f"{nbformat.writes(made)}\n"


def cells(text: str) -> list[Cell]:
    """The cells of a guide, in order; none of them empty."""
    return [cell for cell in _pieces(text) if cell.source]


def _pieces(text: str) -> Iterator[Cell]:
    kept = ""  # text since the last code cell
    end = 0
    for block in _FENCE.finditer(text):
        kept += text[end : block.start()]
        end = block.end()
        code = _code(block[1], block[2])
        if code is None:
            kept += block[0]
            continue
        yield Cell("markdown", _unfolded(kept))
        yield Cell("code", code)
        kept = ""
    yield Cell("markdown", _unfolded(kept + text[end:]))


def _code(language: str, body: str) -> str | None:
    """What a block is as a code cell; None where it is none."""
    lines = body.rstrip().splitlines()
    if language == "python":
        return "\n".join(lines)
    if language == "bash" and all(line.startswith("llmops") for line in lines):
        return "\n".join(f"!{line}" for line in lines)
    return None


def _unfolded(text: str) -> str:
    """Without the folding of solutions, which would hide cells in no notebook."""
    return _SUMMARY.sub(r"**\1**", _FOLDS.sub("", text)).strip()
