"""The rows of a page as one block of inert JSON, which page.js turns into elements a few at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from llmops.evaluation.reports.contents import Report
from llmops.evaluation.reports.markup import json_block
from llmops.evaluation.reports.row_selection import Selection
from llmops.evaluation.reports.wording import printable, shortened

LONGEST_TEXT = 20_000
_FIELDS = (
    "id", "inputs", "expectations", "tags", "contexts", "output_a", "output_b", "error_a", "error_b", "scores",
    "change",
)  # fmt: skip


def row_block(report: Report, selection: Selection) -> Iterator[str]:
    """The block's element, row by row. A script element of this type is data: no browser runs it."""
    metrics = report["comparison"]["metrics"]
    about = {
        "primary": report["primary"],
        "names": {"a": report["a"]["name"], "b": report["b"]["name"]},
        "directions": {name: metric.higher_is_better for name, metric in metrics.items()},
    }
    yield f'<script type="application/json" id="contents">{{"about":{json_block(showable(about))},"rows":['
    for position, row in enumerate(selection.rows):
        yield ",\n" if position else "\n"
        yield json_block({name: showable(row[name]) for name in _FIELDS if name in row})  # type: ignore[literal-required]
    yield "\n]}</script>\n"


def showable(value: Any) -> Any:
    """The value with its texts printable and not too long, and numbers that JSON does not know as their names."""
    if isinstance(value, str):
        return shortened(printable(value), LONGEST_TEXT)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): showable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [showable(part) for part in value]
    return value
