"""HTML and SVG built from Python values. Text becomes markup only here, and only escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from typing import Any

from llmops.evaluation.reports.wording import printable


class Markup(str):
    """Text that is HTML already; everything else that is put into an element is escaped."""

    __slots__ = ()


Child = str | int | None
_WITHOUT_END = frozenset({"br", "input", "link", "meta"})


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """`<tag …>children</tag>`. Children that are not Markup are escaped; None is left out.

    An attribute named like a Python keyword ends in `_`; other underscores become hyphens. None and False leave an
    attribute out, True gives it no value.
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _WITHOUT_END:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(children: Iterable[Child]) -> Markup:
    """The children one after the other, escaped unless they are Markup."""
    return Markup("".join(_escaped(child) for child in children if child is not None))


def json_block(value: Any) -> str:
    """JSON that can stand in a `<script>` element: pure ASCII, and no character that could end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(printable(str(value)))}"'


def _escaped(child: str | int) -> str:
    return child if isinstance(child, Markup) else escape(printable(str(child)))
