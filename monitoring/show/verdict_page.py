"""Our verdict as HTML, the head of the report: alarms, before and after, the rows that moved, the days before.

Made from the contract's JSON, so that a verdict kept in MLflow can be shown as well as a new one. Nothing in it runs or
loads. The page itself is verdict.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from llmops.pages.numbers import brief, counted
from llmops.pages.rendering import embedded, page
from monitoring.show.history import Levels, means
from monitoring.show.report_charts import distribution, over_time
from monitoring.store.summaries import Summary

EXCERPT = 240
"""Characters of a text that are shown."""
_MOST_CHARTS, _MOST_ROWS = 12, 5
_TEMPLATE = "monitoring/show/verdict.html"

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


def verdict_section(shown: Shown) -> str:
    """The section, with its own style, for a page that is not ours."""
    return embedded(_TEMPLATE, **_values(shown))


def verdict_page(verdict: Mapping[str, Any]) -> str:
    """A whole page of a verdict alone, without distributions and without anything that users wrote."""
    return whole_page(Shown(verdict, Summary(), Summary()))


def whole_page(shown: Shown) -> str:
    """The section as a page of its own."""
    return page(_TEMPLATE, **_values(shown))


def _values(shown: Shown) -> dict[str, Any]:
    """What the template needs beside the verdict itself."""
    verdict, alarms = shown.verdict, shown.verdict["alarms"]
    state, rules = str(verdict["state"]), ("Limits", "Sequential detectors", "Volume")
    return {
        "verdict": verdict,
        "before": shown.before,
        "after": shown.after,
        "title": f"{verdict['app']}: monitor",
        "state": _TITLES.get(state, counted(len(alarms), "alarm")),
        "badge": {"ok": "good", "alarm": "bad"}.get(state, "open"),
        "window_times": _times(verdict["window"]),
        "reference_times": _times(verdict["reference"]),
        "drift_in": ", ".join(_SIDES.get(side, side) for side in verdict.get("drift_in", ())),
        "sides": _SIDES,
        "alarms": [(alarm, _places(alarm.get("slices", ())), _effect(verdict, alarm)) for alarm in alarms],
        "cards": _cards(shown) if shown.after.rows else (),
        "step": shown.history[0].sort if shown.history else "",
        "rules": [(title, *_findings(verdict.get(title.split()[0].lower(), ()))) for title in rules],
        "other_slices": _places(part["slice"] for part in verdict["slices"][1:]),
        "excerpt": EXCERPT,
    }


def _cards(shown: Shown) -> list[dict[str, Any]]:
    """For each descriptor with an alarm its distributions, its past, and the rows that show it best."""
    rows: dict[str, list[str]] = {}
    for alarm in shown.verdict["alarms"]:
        rows.setdefault(str(alarm["what"]), []).extend(map(str, alarm["rows"]))
    since = datetime.fromisoformat(str(shown.verdict["window"]["since"]))
    cards = []
    for name in list(rows)[:_MOST_CHARTS]:
        ids = list(dict.fromkeys(rows[name]))
        levels = [(level.until, means(level.whole).get(name, float("nan"))) for level in shown.history]
        card = {
            "name": name,
            "chart": distribution(name, shown.before, shown.after, shown.units.get(name, "")),
            "past": over_time(levels, since, name in shown.after.flags or name in shown.before.flags),
            "rows": [(each, shown.texts.get(each)) for each in ids[:_MOST_ROWS]],
            "more": max(len(ids) - _MOST_ROWS, 0),
        }
        cards.append(card)
    return cards


def _findings(found: Iterable[Mapping[str, Any]]) -> tuple[list[str], list[dict[str, str]]]:
    """Findings of one rule, whatever they consist of: the names and the plain values of their columns."""
    rows = [
        {
            name.replace("_", " "): brief(value) if isinstance(value, float) else str(value)
            for name, value in (each | {place: _places([each[place]]) for place in _labelled(each)}).items()
            if value is not None and not isinstance(value, (list, dict))
        }
        for each in map(dict, found)
    ]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _labelled(found: Mapping[str, Any]) -> list[str]:
    return [name for name in ("slice", "place") if isinstance(found.get(name), dict)]


def _effect(verdict: Mapping[str, Any], alarm: Mapping[str, Any]) -> str:
    """Of the test behind an alarm, in the first slice that it names; empty for alarms that no test raised."""
    labels = list(alarm.get("slices", ()))
    for part in verdict["slices"]:
        if alarm.get("kind", "drift") == "drift" and labels and part["slice"] == labels[0]:
            effect = part["descriptors"].get(alarm["what"], {}).get("effect")
            return "" if effect is None else f"{abs(float(effect)):.3f}"
    return ""


def _times(window: Mapping[str, Any]) -> str:
    since, until = (datetime.fromisoformat(str(window[name])) for name in ("since", "until"))
    return f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} {until:%Z}"


def _places(labels: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(
        " ".join("whole app" if name == "app" else str(value) for name, value in label.items()) for label in labels
    )
