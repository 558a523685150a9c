"""Our verdict as HTML, the head of the report: alarms, before and after, the rows that moved, the days before.

Made from the contract's JSON, so that a verdict kept in MLflow can be shown as well as a new one. Nothing in it runs or
loads: no script, no address, every text escaped.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from monitoring.show.history import Levels, means
from monitoring.show.report_charts import AFTER, BEFORE, distribution, over_time, shown
from monitoring.store.summaries import Summary

EXCERPT = 240
"""Characters of a text that are shown."""
_MOST_CHARTS, _MOST_ROWS = 12, 5

_TITLES = {"ok": "No alarm", "too-few-rows": "Too few rows for a verdict"}
_SIDES = {"input": "questions", "output": "answers", "service": "service"}


@dataclass(frozen=True, slots=True)
class RowText:
    """A logged request as the report shows it. question, answer: None when the text was deleted."""

    request_id: str
    at: datetime
    release: str | None
    question: str | None
    answer: str | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page is made of.

    verdict: the contract's JSON. before, after: both windows, whole app. units: by descriptor. texts: rows by request
    id; those that are not there are gone from the log. history: hours or days up to the window's end.
    """

    verdict: Mapping[str, Any]
    before: Summary
    after: Summary
    units: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, RowText] = field(default_factory=dict)
    history: Sequence[Levels] = ()


def rows_to_show(verdict: Mapping[str, Any]) -> list[str]:
    """Request ids whose texts the page shows."""
    shown_ids = [str(row) for alarm in verdict["alarms"][:_MOST_CHARTS] for row in alarm["rows"][:_MOST_ROWS]]
    return list(dict.fromkeys(shown_ids))


def verdict_section(page: Shown) -> str:
    """The section, with its own style."""
    verdict = page.verdict
    parts = [_head(verdict), _alarm_table(verdict["alarms"], page)]
    if page.after.rows:
        parts += [_alarm_detail(name, alarms, page) for name, alarms in _by_descriptor(verdict["alarms"])]
    parts += [_canary(each) for each in verdict.get("canary", ())]
    parts += [
        _table_of("Limits", verdict.get("limits", ())),
        _table_of("Sequential detectors", verdict.get("sequential", ())),
        _table_of("Volume", verdict.get("volume", ())),
        _descriptor_table(verdict, page),
        _foot(page),
    ]
    return f'<style>{STYLE}</style><section class="llmops">{"".join(parts)}</section>'


def verdict_page(verdict: Mapping[str, Any]) -> str:
    """A whole page of a verdict alone, without distributions and without anything that users wrote."""
    section = verdict_section(Shown(verdict, Summary(), Summary()))
    head = f'<meta charset="utf-8"><title>{_e(str(verdict["app"]))}: monitor</title>'
    return f"<!doctype html><html><head>{head}</head><body>{section}</body></html>"


def _head(verdict: Mapping[str, Any]) -> str:
    alarms, state = verdict["alarms"], str(verdict["state"])
    title = _TITLES.get(state, f"{len(alarms)} alarm{'s' if len(alarms) != 1 else ''}")
    reference = verdict["reference"]
    why = f" ({_e(str(reference['why']))})" if reference.get("why") else ""
    sides = ", ".join(_SIDES.get(side, side) for side in verdict.get("drift_in", ()))
    cure = verdict.get("cure") or {}
    helps = "A rollback can help" if cure.get("rollback") else "A rollback cannot help"
    facts = [
        ("Window", _when(verdict["window"])),
        ("Reference", f"{_when(reference)}{why}"),
        ("Drift in", _e(sides or "nothing")),
        ("Cure", f"<b>{helps}</b>: {_e(str(cure.get('why', '')))}" if alarms and cure else ""),
        ("Note", _e(str(verdict.get("note") or ""))),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts if value)
    badge = {"ok": "good", "alarm": "bad"}.get(state, "open")
    return f'<h1>{_e(str(verdict["app"]))} <span class="badge {badge}">{title}</span></h1><dl>{rows}</dl>'


def _alarm_table(alarms: Sequence[Mapping[str, Any]], page: Shown) -> str:
    if not alarms:
        return ""
    body = []
    for alarm in alarms:
        places = ", ".join(_place(label) for label in alarm.get("slices", ()))
        found = _found(page.verdict, alarm)
        effect = f"{abs(float(found['effect'])):.3f}" if found.get("effect") is not None else ""
        severity = str(alarm.get("severity", "high"))
        body.append(
            f'<tr><td><span class="dot {_e(severity)}"></span><a href="#alarm-{_e(_slug(alarm["what"]))}">'
            f"{_e(str(alarm['what']))}</a></td><td>{_e(str(alarm.get('kind', 'drift')))}</td>"
            f"<td>{_e(_SIDES.get(alarm['in'], alarm['in']))}</td><td>{_e(str(alarm['why']))}</td>"
            f'<td>{_e(places)}</td><td class="number">{effect}</td></tr>'
        )
    head = "".join(f"<th>{name}</th>" for name in ("what", "found by", "in", "why", "where", "effect"))
    return f'<table class="alarms"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _by_descriptor(alarms: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for alarm in alarms:
        found.setdefault(str(alarm["what"]), []).append(alarm)
    return list(found.items())[:_MOST_CHARTS]


def _alarm_detail(name: str, alarms: Sequence[Mapping[str, Any]], page: Shown) -> str:
    ids = list(dict.fromkeys(str(row) for alarm in alarms for row in alarm["rows"]))
    legend = (
        f'<span class="key" style="background:{BEFORE}"></span> reference, {page.before.rows:,} rows &nbsp; '
        f'<span class="key" style="background:{AFTER}"></span> window, {page.after.rows:,} rows'
    )
    chart = distribution(name, page.before, page.after, page.units.get(name, ""))
    since = datetime.fromisoformat(str(page.verdict["window"]["since"]))
    share = name in page.after.flags or name in page.before.flags
    points = [(level.until, means(level.whole).get(name, float("nan"))) for level in page.history]
    line = over_time(points, since, share)
    past = (
        f'<div><h3>Over time</h3>{line}<div class="quiet">each {_step(page.history)}; the window is shaded</div></div>'
    )
    return (
        f'<div class="card" id="alarm-{_e(_slug(name))}"><h2>{_e(name)}</h2><div class="charts">'
        f'<div><h3>Before and after</h3>{chart}<div class="quiet">{legend}</div></div>{past if line else ""}</div>'
        f"{_rows_table(ids, page.texts)}</div>"
    )


def _rows_table(ids: Sequence[str], texts: Mapping[str, RowText]) -> str:
    if not ids:
        return ""
    body = []
    for request_id in ids[:_MOST_ROWS]:
        row = texts.get(request_id)
        when = f"{row.at:%Y-%m-%d %H:%M}" if row else ""
        release = _e(row.release or "") if row else ""
        body.append(
            f"<tr><td><code>{_e(request_id)}</code><br><span class='quiet'>{when} {release}</span></td>"
            f"<td>{_text(row.question if row else None)}</td><td>{_text(row.answer if row else None)}</td></tr>"
        )
    more = f"{len(ids) - _MOST_ROWS} more in the verdict; " if len(ids) > _MOST_ROWS else ""
    example = f"{more}each one in full: <code>llmops log show {_e(ids[0])}</code>"
    return (
        "<h3>Rows that show it best</h3><table class='rows'><thead><tr><th>request</th><th>question</th>"
        f"<th>answer</th></tr></thead><tbody>{''.join(body)}</tbody></table><div class='quiet'>{example}</div>"
    )


def _text(text: str | None) -> str:
    if text is None:
        return '<span class="quiet">deleted</span>'
    cut = text[:EXCERPT].replace("\0", "\ufffd")
    return _e(cut + ("…" if len(text) > EXCERPT else "")) or '<span class="quiet">empty</span>'


def _canary(each: Mapping[str, Any]) -> str:
    rows = each["rows"]
    worse = ", ".join(map(str, each["worse"])) or "nothing"
    head = (
        f"<h2>{_e(str(each['kind']).capitalize())}: {_e(str(each['challenger'] or 'challenger'))} against "
        f"{_e(str(each['champion'] or 'champion'))} on the same traffic</h2><p>{rows['challenger']} rows against "
        f"{rows['champion']}. Worse in: <b>{_e(worse)}</b>."
    )
    fair = "" if each["alike"] else " <b>The questions of both differ, so the comparison is not fair.</b>"
    drifted = [(name, found) for name, found in each["descriptors"].items() if found["drifted"]]
    body = "".join(
        f'<tr><td>{_e(name)}</td><td class="number">{_level(found["before"])}</td><td class="number">'
        f'{_level(found["after"])}</td><td class="number">{abs(found["effect"]):.3f}</td></tr>'
        for name, found in drifted
    )
    columns = "<th>differs</th><th>champion</th><th>challenger</th><th>effect</th>"
    table = f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>" if body else ""
    return f'<div class="card">{head}{fair}</p>{table}</div>'


def _table_of(title: str, found: Iterable[Mapping[str, Any]]) -> str:
    """Findings of one rule, whatever they consist of: their plain values as columns."""
    rows = [
        {name: value for name, value in each.items() if value is not None and not isinstance(value, (list, dict))}
        | {
            name: _place(value)
            for name, value in each.items()
            if name in ("slice", "place") and isinstance(value, dict)
        }
        for each in found
    ]
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{_e(name.replace('_', ' '))}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{_e(_cell(row.get(name)))}</td>' for name in names)}</tr>" for row in rows)
    return (
        f"<details><summary>{title}: {len(rows)} looked at</summary><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></details>"
    )


def _known(found: Mapping[str, Any]) -> str:
    """Rows with a value; verdicts that older versions recorded do not say."""
    known = found.get("known")
    return "–" if known is None else f"{known['before']:,}, {known['after']:,}"


def _descriptor_table(verdict: Mapping[str, Any], page: Shown) -> str:
    parts = verdict["slices"]
    if not parts:
        return ""
    body = "".join(
        f'<tr class="{"drifted" if found["drifted"] else ""}"><td>{_e(name)}</td><td class="number">'
        f'{_level(found["before"], name in page.after.flags)}</td><td class="number">'
        f'{_level(found["after"], name in page.after.flags)}</td><td class="number">{abs(found["effect"]):.3f}</td>'
        f'<td class="number">{found["p_adjusted"]:.2g}</td><td>{_e(str(found["test"]))}</td>'
        f'<td class="number">{_known(found)}</td></tr>'
        for name, found in parts[0]["descriptors"].items()
    )
    columns = ("descriptor", "before", "after", "effect", "adjusted p", "test", "rows with a value, before and after")
    head = "".join(f"<th>{name}</th>" for name in columns)
    others = ", ".join(_place(part["slice"]) for part in parts[1:])
    beside = f" Slices tested beside it: {_e(others)}." if others else ""
    return (
        f"<details><summary>All {len(parts[0]['descriptors'])} descriptors of the whole app</summary><table><thead><tr>"
        f"{head}</tr></thead><tbody>{body}</tbody></table><p class='quiet'>An adjusted p of {parts[0]['alpha']:.2g} or "
        f"less and an effect above its floor are an alarm.{beside}</p></details>"
    )


def _foot(page: Shown) -> str:
    verdict, lines = page.verdict, []
    if failures := verdict.get("failures"):
        told = ", ".join(f"{name} on {rows} rows" for name, rows in failures.items())
        lines.append(f"Could not be computed: {_e(told)}.")
    if skipped := verdict["reference"].get("not_compared"):
        lines.append(f"Not comparable with the reference, whose definition differs: {_e(', '.join(skipped))}.")
    feedback = verdict.get("feedback") or {}
    if feedback.get("scores") or feedback.get("labels"):
        labels = ", ".join(f"{name} {count}" for name, count in feedback["labels"].items())
        mean = shown(float(feedback["mean_score"])) if feedback.get("mean_score") is not None else "–"
        lines.append(f"Users' feedback: {feedback['scores']} scores, mean {mean}. {_e(labels)}")
    budget = float(verdict["expected_false_alarms_per_month"])
    lines.append(
        f"At most {budget:.2g} false alarms are to be expected in a month. An effect is the share of rows that would "
        "have to change for the windows to agree."
    )
    if page.after.rows:
        lines.append(
            "This verdict counts: what follows is Evidently's view of the same rows, on a sample where there are many."
        )
    return "".join(f"<p class='quiet'>{line}</p>" for line in lines)


def _found(verdict: Mapping[str, Any], alarm: Mapping[str, Any]) -> Mapping[str, Any]:
    """The test behind an alarm, in the first slice that it names; empty for alarms that no test raised."""
    labels = list(alarm.get("slices", ()))
    for part in verdict["slices"]:
        if alarm.get("kind", "drift") == "drift" and labels and part["slice"] == labels[0]:
            found: Mapping[str, Any] = part["descriptors"].get(alarm["what"], {})
            return found
    return {}


def _when(window: Mapping[str, Any]) -> str:
    since, until = (datetime.fromisoformat(str(window[name])) for name in ("since", "until"))
    return f"<b>{window['rows']:,} rows</b>, {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} {until:%Z}"


def _place(label: Mapping[str, Any]) -> str:
    return " ".join("whole app" if name == "app" else str(value) for name, value in label.items())


def _step(history: Sequence[Levels]) -> str:
    return history[0].sort if history else ""


def _level(value: Any, share: bool = False) -> str:
    if value is None:
        return "–"
    return shown(float(value), share) if isinstance(value, (int, float)) else _e(str(value))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return shown(float(value)) if isinstance(value, float) else str(value)


def _slug(name: object) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in str(name))


def _e(text: str) -> str:
    return html.escape(text)


STYLE = """
.llmops{font:15px/1.5 system-ui,sans-serif;color:#1e293b;max-width:1180px;margin:28px auto;padding:0 20px}
.llmops h1{font-size:28px;margin:0 0 12px}.llmops h2{font-size:19px;margin:0 0 10px}
.llmops h3{font-size:13px;margin:12px 0 6px;color:#475569}
.llmops .badge{font-size:16px;padding:4px 12px;border-radius:14px;vertical-align:middle;margin-left:8px;color:#fff}
.llmops .good{background:#15803d}.llmops .bad{background:#b91c1c}.llmops .open{background:#a16207}
.llmops dl{display:grid;grid-template-columns:110px 1fr;gap:4px 12px;margin:0 0 18px}
.llmops dt{color:#64748b}.llmops dd{margin:0}
.llmops table{border-collapse:collapse;width:100%;margin:6px 0 14px;font-size:14px}
.llmops th{text-align:left;color:#64748b;font-weight:600;border-bottom:2px solid #cbd5e1;padding:5px 10px 5px 0}
.llmops td{border-bottom:1px solid #e2e8f0;padding:6px 10px 6px 0;vertical-align:top;overflow-wrap:anywhere}
.llmops .number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.llmops tr.drifted td{background:#fef2f2}.llmops a{color:#1d4ed8;font-weight:600;text-decoration:none}
.llmops .dot{display:inline-block;width:9px;height:9px;border-radius:50%;background:#d97706;margin-right:8px}
.llmops .dot.high{background:#b91c1c}.llmops .quiet{color:#64748b;font-size:13px}
.llmops .card{border:1px solid #cbd5e1;border-radius:8px;padding:16px 20px;margin:16px 0}
.llmops .charts{display:flex;flex-wrap:wrap;gap:28px}.llmops .charts>div{flex:1 1 440px;min-width:0}
.llmops svg{max-width:100%;height:auto;display:block}
.llmops .axis{display:flex;justify-content:space-between;font-size:12px;color:#64748b;max-width:520px}
.llmops .key{display:inline-block;width:11px;height:11px;border-radius:2px;vertical-align:-1px}
.llmops .pair{display:flex;gap:10px;margin:6px 0;max-width:520px}.llmops .label{flex:0 0 110px;overflow-wrap:anywhere}
.llmops .bars{flex:1}.llmops .bar{display:flex;align-items:center;gap:8px;font-size:13px}
.llmops .bar i{display:block;height:14px;border-radius:2px;min-width:2px}
.llmops .alarms td:nth-child(-n+3){white-space:nowrap;overflow-wrap:normal}
.llmops .rows td:first-child{width:24%}.llmops .rows td{width:38%}
.llmops code{font:12px ui-monospace,monospace;background:#f1f5f9;padding:1px 4px;border-radius:3px}
.llmops details{margin:10px 0}.llmops summary{cursor:pointer;font-weight:600}
"""
