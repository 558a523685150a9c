"""Texts as every database takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# PostgreSQL refuses NUL in a text; no UTF-8 database takes half a surrogate pair.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_REPLACEMENT = "\ufffd"


class TextCleaner:
    """Replaces, in any value made of JSON types, each character that a database refuses. cleaned: texts changed."""

    def __init__(self) -> None:
        self.cleaned = 0

    def __call__(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self(name): self(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self(item) for item in value]
        return value

    def _text(self, text: str) -> str:
        stored, changes = _UNSTORABLE.subn(_REPLACEMENT, text)
        self.cleaned += changes > 0
        return stored
