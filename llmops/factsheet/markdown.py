"""A sheet as Markdown that reads well as it is, on a terminal too. What it holds is in sheet.jinja."""

from __future__ import annotations

import re

from llmops.factsheet import phrases
from llmops.factsheet.contents import Factsheet
from llmops.pages.numbers import printable
from llmops.pages.rendering import render_blocks

# What means something to Markdown wherever it stands; at the beginning of a line; and between characters that are no
# part of a word. Whatever else stays as it is, so that `rouge_l` and `qa@2` can be read.
_EVERYWHERE = re.compile(r"""[\\`*<>\[\]|~$]|&(?=#|\w)|(?<![^\W_])_|_(?![^\W_])|(?<!\w)@""")
_AT_THE_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=#]))")
_ENTITY_FOR = {"@": "&#64;", "$": "&#36;"}  # a backslash would not keep GitHub from these


def markdown(sheet: Factsheet) -> str:
    """The whole sheet."""
    writing = {"blocks": "llmops/factsheet/blocks.md", "readable": readable, "cell": cell, "fenced": fenced}
    return render_blocks("llmops/factsheet/sheet.jinja", sheet=sheet, phrases=phrases, **writing)


def readable(text: str) -> str:
    """The text in one line, such that Markdown shows it as it is, wherever it stands."""
    return _AT_THE_START.sub(r"\1\\", cell(text))


def cell(text: str) -> str:
    """As `readable`, for the cell of a table, where a beginning means nothing."""
    line = " ".join(printable(text).split())
    return _EVERYWHERE.sub(lambda found: _ENTITY_FOR.get(found[0], f"\\{found[0]}"), line)


def fenced(text: str) -> str:
    """The text as it is, between fences that nothing in it can close."""
    shown = printable(text)
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", shown)), 0)
    return f"{fence}text\n{shown}\n{fence}"
