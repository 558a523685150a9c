"""Text from elsewhere on a terminal or in a log line: what would act on the terminal is shown instead of done."""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters (C0, DEL, C1), line and paragraph separators, marks and overrides of the direction of writing
# (what is shown is then not what is there, CVE-2021-42574), and halves of surrogate pairs, which no stream can write.
_ACTS = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_ACTS}]")
_IN_LINE = re.compile(f"[\t\n{_ACTS}]")


def printable(text: str, *, one_line: bool = False) -> str:
    r"""The text with each character that acts on a terminal written out, such as `\x1b`; line ends and tabs stay.

    one_line: these are written out too.
    """
    return (_IN_LINE if one_line else _IN_TEXT).sub(_escaped, text)


def printable_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that holds the very value and is safe to show: such characters stand in its strings as JSON escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return _IN_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(found: re.Match[str]) -> str:
    return (
        found[0].encode("ascii", errors="backslashreplace").decode() if ord(found[0]) > 0x7F else repr(found[0])[1:-1]
    )
