"""Our verdict as HTML, the head of the report: alarms, before and after, the rows that moved, the days before.

Made from the contract's JSON, so that a verdict kept in MLflow can be shown as well as a new one. Nothing in it runs or
loads. The page itself is verdict.html.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from llmops.pages.numbers import brief, counted
from llmops.pages.rendering import embedded, page
from llmops.production_log import LogRecord
from monitoring.show.history import Levels, means
from monitoring.store.packed_summaries import middle_of
from monitoring.store.summaries import FlagSummary, LabelSummary, NumberSummary, Part, Summary

Chart = dict[str, Any]
"""The values that a macro of parts.html writes."""

EXCERPT = 240
"""Characters of a text that are shown."""
_MOST_CHARTS, _MOST_ROWS = 12, 5
_BARS, _MOST_LABELS = 26, 8
_SKEW = 30.0
_TEMPLATE = "monitoring/show/verdict.html"

_TITLES = {"ok": "No alarm", "too-few-rows": "Too few rows for a verdict"}
_SIDES = {"input": "questions", "output": "answers", "service": "service"}


@dataclass(frozen=True, slots=True)
class PageContents:
    """What the page is made of.

    verdict: the contract's JSON.
    before, after: both windows, whole app.
    units: by descriptor.
    texts: rows by request id; those that are not there are gone from the log.
    history: hours or days up to the window's end.
    """

    verdict: Mapping[str, Any]
    before: Summary
    after: Summary
    units: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, LogRecord] = field(default_factory=dict)
    history: Sequence[Levels] = ()


def rows_to_show(verdict: Mapping[str, Any]) -> list[str]:
    """Request ids whose texts the page shows."""
    shown_ids = [str(row) for alarm in verdict["alarms"][:_MOST_CHARTS] for row in alarm["rows"][:_MOST_ROWS]]
    return list(dict.fromkeys(shown_ids))


def verdict_section(contents: PageContents) -> str:
    """The section, with its own style, for a page that is not ours."""
    return embedded(_TEMPLATE, **_values(contents))


def verdict_page(verdict: Mapping[str, Any]) -> str:
    """A whole page of a verdict alone, without distributions and without anything that users wrote."""
    return whole_page(PageContents(verdict, Summary(), Summary()))


def whole_page(contents: PageContents) -> str:
    """The section as a page of its own."""
    return page(_TEMPLATE, **_values(contents))


def distribution(before: Part | None, after: Part | None, unit: str = "") -> Chart | None:
    """Both windows' distributions of one descriptor; None where either has no values."""
    if before is None or after is None or not before.n or not after.n:
        return None
    if isinstance(before, NumberSummary) and isinstance(after, NumberSummary):
        return _number_chart(before, after, unit)
    if isinstance(before, FlagSummary) and isinstance(after, FlagSummary):
        sides = [(flag.share, f"({flag.hits:,} of {flag.n:,})") for flag in (before, after)]
        return {"shares": [("", *sides)], "most": max(share for share, _ in sides) or 1.0}
    if isinstance(before, LabelSummary) and isinstance(after, LabelSummary):
        return _label_chart(before, after)
    return None


def over_time(points: Sequence[tuple[datetime, float]], since: datetime, share: bool) -> Chart | None:
    """A level over time, NaN where it is not known; the current window, from `since` on, is marked. None for fewer than
    two levels that are known."""
    known = [(at, level) for at, level in points if math.isfinite(level)]
    if len(known) < 2:
        return None
    levels = [level for _, level in known]
    now, low, high = (brief(level, share) for level in (levels[-1], min(0.0, *levels), max(levels)))
    told = f"{now} now, {low} to {high}"
    marks = [(at.timestamp(), level, f"{at:%Y-%m-%d %H:%M} UTC: {brief(level, share)}") for at, level in points]
    return {"points": marks, "since": since.timestamp(), "told": told, "start": known[0][0], "end": known[-1][0]}


def _values(contents: PageContents) -> dict[str, Any]:
    """What the template needs beside the verdict itself."""
    verdict, alarms = contents.verdict, contents.verdict["alarms"]
    state, rules = str(verdict["state"]), ("Limits", "Sequential detectors", "Volume")

    def times(window: Mapping[str, Any]) -> str:
        since, until = (datetime.fromisoformat(str(window[name])) for name in ("since", "until"))
        return f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} {until:%Z}"

    return {
        "verdict": verdict,
        "before": contents.before,
        "after": contents.after,
        "title": f"{verdict['app']}: monitor",
        "state": _TITLES.get(state, counted(len(alarms), "alarm")),
        "badge": {"ok": "good", "alarm": "bad"}.get(state, "open"),
        "window_times": times(verdict["window"]),
        "reference_times": times(verdict["reference"]),
        "drift_in": ", ".join(_SIDES.get(side, side) for side in verdict.get("drift_in", ())),
        "sides": _SIDES,
        "alarms": [(alarm, _places(alarm.get("slices", ())), _effect(verdict, alarm)) for alarm in alarms],
        "cards": _cards(contents) if contents.after.rows else (),
        "step": contents.history[0].sort if contents.history else "",
        "rules": [(title, *_findings(verdict.get(title.split()[0].lower(), ()))) for title in rules],
        "other_slices": _places(part["slice"] for part in verdict["slices"][1:]),
        "excerpt": EXCERPT,
    }


def _cards(contents: PageContents) -> list[dict[str, Any]]:
    """For each descriptor with an alarm its distributions, its past, and the rows that show it best."""
    rows: dict[str, list[str]] = {}
    for alarm in contents.verdict["alarms"]:
        rows.setdefault(str(alarm["what"]), []).extend(map(str, alarm["rows"]))
    since = datetime.fromisoformat(str(contents.verdict["window"]["since"]))
    cards = []
    for name in list(rows)[:_MOST_CHARTS]:
        ids = list(dict.fromkeys(rows[name]))
        levels = [(level.until, means(level.whole).get(name, float("nan"))) for level in contents.history]
        share = name in contents.after.flags or name in contents.before.flags
        card = {
            "name": name,
            "chart": distribution(contents.before.part(name), contents.after.part(name), contents.units.get(name, "")),
            "past": over_time(levels, since, share),
            "rows": [(each, contents.texts.get(each)) for each in ids[:_MOST_ROWS]],
            "more": max(len(ids) - _MOST_ROWS, 0),
        }
        cards.append(card)
    return cards


def _findings(findings: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, str]]]:
    """Findings of one rule, whatever they consist of: the names and the plain values of their columns."""
    rows = []
    for each in findings:
        labels = {name: _places([each[name]]) for name in ("slice", "place") if isinstance(each.get(name), dict)}
        row = {
            name.replace("_", " "): brief(value) if isinstance(value, float) else str(value)
            for name, value in {**each, **labels}.items()
            if value is not None and not isinstance(value, (list, dict))
        }
        rows.append(row)
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _effect(verdict: Mapping[str, Any], alarm: Mapping[str, Any]) -> str:
    """Of the test behind an alarm, in the first slice that it names; empty for alarms that no test raised."""
    labels = list(alarm.get("slices", ()))
    for part in verdict["slices"]:
        if alarm.get("kind", "drift") == "drift" and labels and part["slice"] == labels[0]:
            effect = part["descriptors"].get(alarm["what"], {}).get("effect")
            return "" if effect is None else f"{abs(float(effect)):.3f}"
    return ""


def _places(labels: Iterable[Mapping[str, Any]]) -> str:
    named = [["whole app" if name == "app" else str(value) for name, value in label.items()] for label in labels]
    return ", ".join(map(" ".join, named))


def _number_chart(before: NumberSummary, after: NumberSummary, unit: str) -> Chart:
    edges, in_steps = _edges(before, after)
    shares = []
    for part in (before, after):
        middles = np.array([middle_of(int(place)) for place in part.bins]).clip(edges[0], edges[-1])
        counted_in, _ = np.histogram(middles, bins=edges, weights=part.counts)
        shares.append((counted_in / max(part.n, 1)).tolist())
    ranges = [f"{brief(low)} to {brief(high)} {unit}" for low, high in pairwise(edges)]
    medians, means = (before.quantile(0.5), after.quantile(0.5)), (before.mean, after.mean)
    label = f"median {brief(medians[0])} before, {brief(medians[1])} after"
    return {
        "bars": (*shares, ranges, label),
        "low": edges[0],
        "middle": edges[len(edges) // 2],
        "high": edges[-1],
        "medians": medians,
        "means": means,
        "unit": unit,
        "in_steps": in_steps,
    }


def _edges(before: NumberSummary, after: NumberSummary) -> tuple[list[float], bool]:
    """Edges of the bars over what nearly all numbers lie in; the last bars hold what is beyond."""
    low = min(before.quantile(0.005), after.quantile(0.005))
    high = max(before.quantile(0.995), after.quantile(0.995))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    middle = max(before.quantile(0.5), after.quantile(0.5))
    if low > 0 and high > _SKEW * max(min(before.quantile(0.5), after.quantile(0.5)), low):
        return np.geomspace(low, high, _BARS + 1).tolist(), True
    whole = all(float(value).is_integer() for value in (low, high)) and high - low < _BARS
    if whole and middle.is_integer():
        return np.arange(low - 0.5, high + 1.5).tolist(), False
    return np.linspace(low, high, _BARS + 1).tolist(), False


def _label_chart(before: LabelSummary, after: LabelSummary) -> Chart:
    rows = [
        (label, (before.counts.get(label, 0) / before.n, ""), (after.counts.get(label, 0) / after.n, ""))
        for label in {*before.counts, *after.counts}
    ]
    rows.sort(key=lambda row: (-max(row[1], row[2])[0], row[0]))
    return {"shares": rows[:_MOST_LABELS], "most": max(max(row[1], row[2])[0] for row in rows)}
