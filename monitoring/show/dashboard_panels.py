"""What the dashboard shows: its panels and lines, as Evidently's files hold them, but for the panels' ids.

Its interface draws all panels below one another, tab by tab; the tabs themselves it does not show.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

WHOLE = "app"
"""Who a line is about when it is about no single release."""

EFFECT = "effect "
"""Begins the name of an effect, before the descriptor's."""

BUDGET = "budget"

ALARM_KINDS = ("drift", "sequential", "limit", "volume", "canary")

MEAN = "evidently:metric_v2:MeanValue"
"""A number is kept as the mean of a column, so that Evidently's own panels and filters find it."""

_VERDICTS, _ANSWERS, _QUESTIONS, _SERVICE = "Verdicts", "Answers", "Questions", "Service"
_EFFECTS, _OTHERS = "Effects", "Others"

CHIEF: Mapping[str, tuple[str, str, str]] = {
    "output.refusal": (_ANSWERS, "Refusals", "share of answers"),
    "output.empty": (_ANSWERS, "Empty answers", "share of answers"),
    "output.words": (_ANSWERS, "Words in an answer", "mean"),
    "output.sentiment": (_ANSWERS, "Sentiment of answers", "mean, from -1 to 1"),
    "output.repetition": (_ANSWERS, "Repetition in answers", "mean"),
    "output.valid_json": (_ANSWERS, "Answers that are valid JSON", "share of answers"),
    "output.profanity": (_ANSWERS, "Profanity in answers", ""),
    "output.similarity": (_ANSWERS, "Closeness of answer and question", "mean, from -1 to 1"),
    "input.words": (_QUESTIONS, "Words in a question", "mean"),
    "input.sentiment": (_QUESTIONS, "Sentiment of questions", "mean, from -1 to 1"),
    "rows": (_SERVICE, "Requests", "in an hour"),
    "error": (_SERVICE, "Errors", "share of requests"),
    "latency_ms": (_SERVICE, "Latency", "mean, ms"),
    "first_token_ms": (_SERVICE, "Time to the first token", "mean, ms"),
    "tokens_out": (_SERVICE, "Tokens in an answer", "mean"),
    "tokens_in": (_SERVICE, "Tokens in a prompt", "mean"),
}
"""Descriptors with a panel of their own, where each release has a line: the tab, title and meaning of the panel."""

_MOST_OTHERS = 6
_TOLD_BY_OTHERS = ("length", "sentences", "non_letter", "link")
"""What moves with the number of words, or seldom: no panel of its own."""
_MOST_EFFECTS = 7

Json = dict[str, Any]


def column_name(who: str, what: str) -> str:
    """What a number is stored under. who: a release, or WHOLE."""
    return f"{who} {what}"


def named_in(column: str) -> tuple[str, str]:
    """Who and what of a `column_name`."""
    who, _, what = column.partition(" ")
    return who, what


def panels(releases: Sequence[str], levels: Iterable[str], effects: Iterable[str]) -> Iterator[tuple[str, Json]]:
    """All panels in order, each with its tab.

    releases: those that get lines, oldest first. levels: descriptors that the stored levels have, `rows` among them.
    effects: descriptors that verdicts have an effect of.
    """
    known = set(levels)
    counter, bars = {"plot_type": "counter", "aggregation": "last"}, {"plot_type": "bar", "is_stacked": True}
    # Not the alarms of the newest run: Evidently shows a counter of 0 as "no value".
    yield _VERDICTS, _panel("Rows", [_verdict("rows", "rows")], "in the newest window", plot=counter)
    yield _VERDICTS, _panel("False alarms", [_verdict("a month", BUDGET)], "at most, by the budget", plot=counter)
    kinds = [_verdict(kind, f"alarms {kind}") for kind in ALARM_KINDS]
    yield _VERDICTS, _panel("Alarms by kind", kinds, "each run of the monitor", wide=not releases, plot=bars)
    if releases:
        lines = [_line(name, name, "alarms", "verdict") for name in releases]
        yield _VERDICTS, _panel("Alarms by release", lines, "drift in the slice of the release", plot=bars)
    for name, (tab, title, meaning) in CHIEF.items():
        if name in known:
            lines = [_level("all", WHOLE, name), *(_level(release, release, name) for release in releases)]
            yield tab, _panel(title, lines, meaning)
    for side, tab, title in (("output", _ANSWERS, "answers"), ("input", _QUESTIONS, "questions")):
        if sorts := sorted(name for name in known if name.startswith(f"{side}.pii_")):
            lines = [_level(name.partition("pii_")[2], WHOLE, name) for name in sorts]
            yield tab, _panel(f"Personal data in {title}", lines, "share, by sort")
    # The effects on a side, of the chief descriptors first: what has no panel of its own follows them in name.
    chief = {name: place for place, name in enumerate(CHIEF)}
    ordered = sorted(set(effects), key=lambda name: (chief.get(name, len(chief)), name))
    meaning = "share of rows that would have to change for the windows to agree; below its floor nothing alarms"
    for side, title in (("output", "answers"), ("input", "questions"), ("", "the service")):
        names = [name for name in ordered if (name.partition(".")[0] == side if side else "." not in name)]
        names = [name for name in names if ".pii_" not in name][:_MOST_EFFECTS]
        if names:
            lines = [_verdict(name.removeprefix(f"{side}."), EFFECT + name) for name in names]
            yield _EFFECTS, _panel(f"Effect sizes in {title}", lines, meaning, wide=True)
    others = sorted(name for name in known if name not in CHIEF and ".pii_" not in name)
    for name in [name for name in others if name.rpartition(".")[2] not in _TOLD_BY_OTHERS][:_MOST_OTHERS]:
        yield _OTHERS, _panel(name, [_level("app", WHOLE, name)], "mean or share")


def _panel(title: str, lines: Sequence[Json], subtitle: str, *, wide: bool = False, plot: Json | None = None) -> Json:
    shown = {"title": title, "subtitle": subtitle, "size": "full" if wide else "half"}
    return {**shown, "values": list(lines), "plot_params": plot or {"plot_type": "line"}}


def _line(legend: str, who: str, what: str, tag: str) -> Json:
    """One series of a panel. tag: which snapshots have its numbers."""
    metric = {"metric": MEAN, "metric_labels": {"column": column_name(who, what)}, "view_params": {}}
    return {"legend": legend, "tags": [tag], "metadata": {}, **metric}


def _level(legend: str, who: str, what: str) -> Json:
    return _line(legend, who, what, "levels")


def _verdict(legend: str, what: str) -> Json:
    return _line(legend, WHOLE, what, "verdict")
