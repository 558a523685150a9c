"""A sheet as one HTML page that asks nothing of any network. What it holds is in sheet.jinja."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmops.factsheet import phrases
from llmops.factsheet.contents import Factsheet, Metric
from llmops.pages.charts import Axis
from llmops.pages.rendering import page, write_page


def html(sheet: Factsheet) -> str:
    """The page as text."""
    return page(
        "llmops/factsheet/sheet.jinja",
        sheet=sheet,
        phrases=phrases,
        title=f"{sheet.ref}: fact sheet",
        blocks="llmops/factsheet/blocks.html",
        standing=_standing(sheet),
        axis_of=_axis,
        fits=_fits,
    )


def write_html(sheet: Factsheet, path: Path) -> None:
    """Writes the page, making the file's folder. Raises CannotRun."""
    write_page([html(sheet)], path)


def _standing(sheet: Factsheet) -> str:
    verdicts = {gate.verdict for gate in sheet.gates if gate.current}
    return "fail" if "fail" in verdicts else "pass" if verdicts == {"pass"} else "none"


def _axis(rows: Iterable[tuple[Any, Any, Metric]]) -> Axis | None:
    """From 0 to 1, which shares and scores lie within; None where none does."""
    return Axis(0.0, 1.0) if any(0 <= end <= 1 for *_, metric in rows for end in _ends(metric)) else None


def _fits(metric: Metric) -> bool:
    return metric.mean is not None and all(-0.05 <= end <= 1.05 for end in _ends(metric))


def _ends(metric: Metric) -> list[float]:
    return [] if metric.mean is None else [metric.mean, *(metric.ci95 or ())]
