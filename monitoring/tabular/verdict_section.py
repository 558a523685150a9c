"""A verdict on a tabular model as HTML, the head of its report. The page itself is verdict.html."""

from __future__ import annotations

from typing import Any

from llmops.pages.rendering import embedded, page
from monitoring.show.report_charts import Chart, distribution
from monitoring.store.summaries import LabelSummary, NumberSummary, Summary
from monitoring.tabular.observed import PREDICTION, ObservedRows, Values
from monitoring.tabular.verdict import TabularVerdict

_TITLES = {"ok": ("good", "No alarm"), "alarm": ("bad", "Alarm"), "too-few-rows": ("open", "Too few rows")}
_METRICS = {
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "relative_error": "relative error",
    "error_rate": "error rate",
}
_MOST_CHARTS = 12
_TEMPLATE = "monitoring/tabular/verdict.html"


def verdict_section(title: str, verdict: TabularVerdict, reference: ObservedRows, current: ObservedRows) -> str:
    """The section with its own style, for a page that is not ours: what was decided and why, the errors, columns that
    drifted, faults of rows."""
    return embedded(_TEMPLATE, **_values(title, verdict, reference, current))


def verdict_page(title: str, verdict: TabularVerdict, reference: ObservedRows, current: ObservedRows) -> str:
    """The section as a page of its own."""
    return page(_TEMPLATE, **_values(title, verdict, reference, current))


def _values(title: str, verdict: TabularVerdict, reference: ObservedRows, current: ObservedRows) -> dict[str, Any]:
    pairs = {name: (values, current.inputs[name]) for name, values in reference.inputs.items()}
    pairs[PREDICTION] = reference.prediction, current.prediction
    pairs |= {name: (reference.truth, current.truth) for name, found in verdict.drift.items() if found.role == "target"}
    badge, state = _TITLES[verdict.state]
    return {
        "title": title,
        "badge": badge,
        "state": state,
        "verdict": verdict,
        "metric": _METRICS[verdict.metric],
        "charts_of": [(name, _chart(name, *pairs[name])) for name in verdict.drifted[:_MOST_CHARTS]],
        "reference": reference,
        "current": current,
    }


def _chart(name: str, before: Values, after: Values) -> Chart | None:
    return distribution(name, _summary(name, before), _summary(name, after))


def _summary(name: str, values: Values) -> Summary:
    if values.numeric:
        return Summary(rows=len(values.data), numbers={name: NumberSummary.of(values.data)})
    return Summary(rows=len(values.data), labels={name: LabelSummary.of(values.data)})
