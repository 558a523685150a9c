"""What the dashboard shows: its panels and lines, as plain values. Knows no Evidently.

Its interface draws all panels below one another, tab by tab; the tabs themselves it does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WHOLE = "app"
"""Who a line is about when it is about no single release."""

EFFECT = "effect "
"""Begins the name of an effect, before the descriptor's."""

BUDGET = "budget"

ALARM_KINDS = ("drift", "sequential", "limit", "volume", "canary")

_VERDICTS, _ANSWERS, _QUESTIONS, _SERVICE = "Verdicts", "Answers", "Questions", "Service"
_EFFECTS, _OTHERS = "Effects", "Others"


@dataclass(frozen=True, slots=True)
class Chief:
    """A descriptor with a panel of its own, where each release has a line."""

    name: str
    title: str
    tab: str
    meaning: str = ""


CHIEFS = (
    Chief("output.refusal", "Refusals", _ANSWERS, "share of answers"),
    Chief("output.empty", "Empty answers", _ANSWERS, "share of answers"),
    Chief("output.words", "Words in an answer", _ANSWERS, "mean"),
    Chief("output.sentiment", "Sentiment of answers", _ANSWERS, "mean, from -1 to 1"),
    Chief("output.repetition", "Repetition in answers", _ANSWERS, "mean"),
    Chief("output.valid_json", "Answers that are valid JSON", _ANSWERS, "share of answers"),
    Chief("output.profanity", "Profanity in answers", _ANSWERS),
    Chief("output.similarity", "Closeness of answer and question", _ANSWERS, "mean, from -1 to 1"),
    Chief("input.words", "Words in a question", _QUESTIONS, "mean"),
    Chief("input.sentiment", "Sentiment of questions", _QUESTIONS, "mean, from -1 to 1"),
    Chief("rows", "Requests", _SERVICE, "in an hour"),
    Chief("error", "Errors", _SERVICE, "share of requests"),
    Chief("latency_ms", "Latency", _SERVICE, "mean, ms"),
    Chief("first_token_ms", "Time to the first token", _SERVICE, "mean, ms"),
    Chief("tokens_out", "Tokens in an answer", _SERVICE, "mean"),
    Chief("tokens_in", "Tokens in a prompt", _SERVICE, "mean"),
)
CHIEF_NAMES = tuple(chief.name for chief in CHIEFS)

_MOST_OTHERS = 6
_TOLD_BY_OTHERS = ("length", "sentences", "non_letter", "link")
"""What moves with the number of words, or seldom: no panel of its own."""
_MOST_EFFECTS = 7


@dataclass(frozen=True, slots=True)
class Line:
    """One series of a panel. column: what its numbers are stored under. tags: which snapshots have them."""

    legend: str
    column: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    tab: str
    title: str
    lines: tuple[Line, ...]
    subtitle: str = ""
    wide: bool = False
    plot: Mapping[str, Any] = field(default_factory=lambda: {"plot_type": "line"})


def column_name(who: str, what: str) -> str:
    """What a number is stored under. who: a release, or WHOLE."""
    return f"{who} {what}"


def named_in(column: str) -> tuple[str, str]:
    """Who and what of a `column_name`."""
    who, _, what = column.partition(" ")
    return who, what


def panels(releases: Sequence[str], levels: Iterable[str], effects: Iterable[str]) -> list[Panel]:
    """All panels, in order.

    releases: those that get lines, oldest first. levels: descriptors that the stored levels have, `rows` among them.
    effects: descriptors that verdicts have an effect of.
    """
    known = set(levels)
    counter, bars = {"plot_type": "counter", "aggregation": "last"}, {"plot_type": "bar", "is_stacked": True}
    kinds = tuple(_verdict(kind, f"alarms {kind}") for kind in ALARM_KINDS)
    found = [
        # Not the alarms of the newest run: Evidently shows a counter of 0 as "no value".
        Panel(_VERDICTS, "Rows", (_verdict("rows", "rows"),), "in the newest window", plot=counter),
        Panel(_VERDICTS, "False alarms", (_verdict("a month", BUDGET),), "at most, by the budget", plot=counter),
        Panel(_VERDICTS, "Alarms by kind", kinds, "each run of the monitor", not releases, bars),
    ]
    if releases:
        lines = tuple(Line(name, column_name(name, "alarms"), ("verdict",)) for name in releases)
        found.append(Panel(_VERDICTS, "Alarms by release", lines, "drift in the slice of the release", plot=bars))
    for chief in CHIEFS:
        if chief.name in known:
            lines = (_level("all", WHOLE, chief.name), *(_level(name, name, chief.name) for name in releases))
            found.append(Panel(chief.tab, chief.title, lines, chief.meaning))
    for side, tab, title in (("output", _ANSWERS, "answers"), ("input", _QUESTIONS, "questions")):
        if sorts := sorted(name for name in known if name.startswith(f"{side}.pii_")):
            lines = tuple(_level(name.partition("pii_")[2], WHOLE, name) for name in sorts)
            found.append(Panel(tab, f"Personal data in {title}", lines, "share, by sort"))
    found += _effect_panels(set(effects))
    others = sorted(name for name in known if name not in CHIEF_NAMES and ".pii_" not in name)
    others = [name for name in others if name.rpartition(".")[2] not in _TOLD_BY_OTHERS]
    found += [Panel(_OTHERS, name, (_level("app", WHOLE, name),), "mean or share") for name in others[:_MOST_OTHERS]]
    return found


def _effect_panels(effects: Iterable[str]) -> list[Panel]:
    """A panel for each side, the chief descriptors first: what has no panel of its own follows them in name."""
    drawn, chief = [], {name: place for place, name in enumerate(CHIEF_NAMES)}
    ordered = sorted(effects, key=lambda name: (chief.get(name, len(chief)), name))
    meaning = "share of rows that would have to change for the windows to agree; below its floor nothing alarms"
    for side, title in (("output", "answers"), ("input", "questions"), ("", "the service")):
        names = [name for name in ordered if (name.partition(".")[0] == side if side else "." not in name)]
        names = [name for name in names if ".pii_" not in name][:_MOST_EFFECTS]
        if names:
            lines = tuple(_verdict(name.removeprefix(f"{side}."), EFFECT + name) for name in names)
            drawn.append(Panel(_EFFECTS, f"Effect sizes in {title}", lines, meaning, True))
    return drawn


def _level(legend: str, who: str, what: str) -> Line:
    return Line(legend, column_name(who, what), ("levels",))


def _verdict(legend: str, what: str) -> Line:
    return Line(legend, column_name(WHOLE, what), ("verdict",))
