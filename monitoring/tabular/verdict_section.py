"""A verdict on a tabular model as HTML, the head of its report. Runs and loads nothing; every text is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from monitoring.show.report_charts import AFTER, BEFORE, distribution, shown
from monitoring.show.verdict_page import STYLE
from monitoring.store.summaries import LabelSummary, NumberSummary, Summary
from monitoring.tabular.columns import ColumnDrift
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


def verdict_section(title: str, verdict: TabularVerdict, reference: ObservedRows, current: ObservedRows) -> str:
    """The section with its own style: what was decided and why, the errors, columns that drifted, faults of rows."""
    parts = (_head(title, verdict), _charts(verdict, reference, current), _columns(verdict), _quality(verdict))
    return f'<style>{STYLE}</style><section class="llmops">{"".join(parts)}{_foot(verdict)}</section>'


def _head(title: str, verdict: TabularVerdict) -> str:
    badge, state = _TITLES[verdict.state]
    facts = [
        ("Rows", f"<b>{verdict.rows:,}</b>, {verdict.labelled:,} of them with a label"),
        ("Why", _e(verdict.why)),
        ("Error", _error(verdict)),
        ("Estimate", _estimate(verdict)),
        ("Drift in", _e(", ".join(verdict.drifted) or "nothing")),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value)
    alarms = _table(
        ("found by", "what", "why"), ((_e(each.rule), _e(each.what), _e(each.why)) for each in verdict.alarms), "alarms"
    )
    return f'<h1>{_e(title)} <span class="badge {badge}">{state}</span></h1><dl>{rows}</dl>{alarms}'


def _error(verdict: TabularVerdict) -> str:
    if verdict.error is None:
        return "labels have not come yet"
    metric, interval = _METRICS[verdict.metric], verdict.error_interval
    between = f", 95 %: {shown(interval[0])} to {shown(interval[1])}" if interval else ""
    before = "" if verdict.reference_error is None else f"; in the reference {shown(verdict.reference_error)}"
    test = verdict.rise
    tested = f"; a rise has p = {test.p_value:.2g} ({_e(test.test)})" if test.test != "none" else f"; {_e(test.note)}"
    return f"{metric} <b>{shown(verdict.error)}</b>{between}{before}{tested}"


def _estimate(verdict: TabularVerdict) -> str:
    if verdict.estimate is None:
        return ""
    trusted = "trusted" if verdict.estimate.trust.trusted else "not trusted"
    return f"{shown(verdict.estimate.error)} before labels, {trusted}: {_e(verdict.estimate.trust.why)}"


def _charts(verdict: TabularVerdict, reference: ObservedRows, current: ObservedRows) -> str:
    pairs = {name: (values, current.inputs[name]) for name, values in reference.inputs.items()}
    pairs[PREDICTION] = reference.prediction, current.prediction
    for name, found in verdict.drift.items():
        if found.role == "target":
            pairs[name] = reference.truth, current.truth
    charts = []
    for name in verdict.drifted[:_MOST_CHARTS]:
        before, after = (_summary(name, values) for values in pairs[name])
        charts.append(f"<div><h3>{_e(name)}</h3>{distribution(name, before, after)}</div>")
    if not charts:
        return ""
    key = (
        f'<span class="key" style="background:{BEFORE}"></span> reference, {reference.rows:,} rows &nbsp; '
        f'<span class="key" style="background:{AFTER}"></span> window, {current.rows:,} rows'
    )
    body = f'<div class="charts">{"".join(charts)}</div><div class="quiet">{key}</div>'
    return f'<div class="card"><h2>Columns that drifted</h2>{body}</div>'


def _summary(name: str, values: Values) -> Summary:
    if values.numeric:
        return Summary(rows=len(values.data), numbers={name: NumberSummary.of(values.data)})
    return Summary(rows=len(values.data), labels={name: LabelSummary.of(values.data)})


def _columns(verdict: TabularVerdict) -> str:
    if not verdict.drift:
        return ""
    body = (_column(name, found) for name, found in verdict.drift.items())
    table = _table(("column", "role", "before", "after", "effect", "adjusted p", "test"), body)
    level = f"An adjusted p of {verdict.alphas['drift']:.2g} or less and an effect above its floor are drift."
    return (
        f"<details><summary>All {len(verdict.drift)} columns</summary>{table}"
        f"<p class='quiet'>{level} Drift is no harm by itself.</p></details>"
    )


def _column(name: str, found: ColumnDrift) -> tuple[str, ...]:
    strong = f"<b>{_e(name)}</b>" if found.drifted else _e(name)
    return (
        strong,
        _e(found.role),
        _level(found.before),
        _level(found.after),
        f"{abs(found.result.effect):.3f}",
        f"{found.p_adjusted:.2g}",
        _e(found.result.test),
    )


def _quality(verdict: TabularVerdict) -> str:
    findings = verdict.quality.findings
    if not findings:
        return ""
    body = (
        (
            _e(each.fault),
            _e(each.column or "all"),
            f"{each.rows:,} ({each.share:.1%})",
            f"{each.reference_share:.1%}",
            "–" if each.allowed is None else f"{each.allowed:.1%}",
            "<b>broken</b>" if each.broken else "",
        )
        for each in findings
    )
    table = _table(("fault", "column", "rows", "in the reference", "allowed", ""), body)
    return f"<details><summary>Faults of rows: {len(findings)}</summary>{table}</details>"


def _foot(verdict: TabularVerdict) -> str:
    return (
        f"<p class='quiet'>At most {verdict.false_alarms:.2g} false alarms are to be expected in "
        f"{verdict.windows_in_budget} windows. This verdict counts: what follows is Evidently's view of the same rows, "
        "on a sample where there are many.</p>"
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{name}</th>" for name in columns)
    return f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>' if body else ""


def _level(value: float | str | None) -> str:
    if value is None:
        return "–"
    return shown(value) if isinstance(value, float) else _e(value)


def _e(text: str) -> str:
    return html.escape(text)
