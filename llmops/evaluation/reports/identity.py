"""What was compared: the versions and parameters of both runs, what they cost, and the change of the prompt's text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from llmops.evaluation.reports.contents import Report, Side
from llmops.evaluation.reports.markup import Markup, element, joined
from llmops.evaluation.reports.page import table
from llmops.evaluation.reports.prompt_diff import Gap, Line, prompt_diff
from llmops.evaluation.reports.wording import NOTHING, count, counted, number

Entry = tuple[str, str, str]
_GUTTER = {"both": " ", "a": "−", "b": "+"}


def identity(report: Report) -> Markup:
    """Two tables: what the runs are, what differs first; and what they used and scored beside the comparison."""
    a, b = report["a"], report["b"]
    entries = sorted(_versions(a, b), key=lambda entry: entry[1] == entry[2])
    versions = table(
        "Versions and parameters", _head("", a, b), (_line(entry, mark=True) for entry in entries), "sides"
    )
    measured = [*_usage(a, b), *_uncompared(report)]
    spent = table("Measured of each run", _head("", a, b), (_line(entry, mark=False) for entry in measured), "sides")
    return joined([versions, spent if measured else None])


def prompt_change(report: Report) -> Markup | None:
    """The prompts' texts as one diff; None unless both are known."""
    a, b = report["a"]["prompt_text"], report["b"]["prompt_text"]
    if a is None or b is None:
        return None
    found = prompt_diff(a, b)
    if not any(isinstance(part, Line) and part.side != "both" for part in found):
        return element("p", "Both runs used the same text.")
    legend = element("p", "− only in A, + only in B.", class_="note")
    return joined([legend, element("div", *(_diff_part(part) for part in found), class_="diff", dir="auto")])


def _diff_part(part: Line | Gap) -> Markup:
    if isinstance(part, Gap):
        summary = element("summary", f"{counted(len(part.lines), 'line')} that did not change")
        return element("details", summary, *(_diff_line("both", [line]) for line in part.lines))
    return _diff_line(part.side, [element("mark", text) if differs else text for text, differs in part.parts])


def _diff_line(side: str, parts: Iterable[str]) -> Markup:
    tag = {"both": "span", "a": "del", "b": "ins"}[side]
    gutter = element("span", _GUTTER[side], class_="gutter")
    return element("div", gutter, element(tag, *parts), class_=f"line only-{side}")


def _versions(a: Side, b: Side) -> list[Entry]:
    names = ("name", "prompt", "model", "release", "run_id")
    labels = {"run_id": "run"}
    entries = [(labels.get(name, name), _shown(a.get(name)), _shown(b.get(name))) for name in names]
    params = dict.fromkeys((*a["params"], *b["params"]))
    return entries + [(name, _shown(a["params"].get(name)), _shown(b["params"].get(name))) for name in params]


def _usage(a: Side, b: Side) -> list[Entry]:
    def entry(label: str, name: str, unit: str, digits: bool) -> Entry:
        write = number if digits else count
        shown = [write(value) + unit if (value := _figure(side, name)) is not None else NOTHING for side in (a, b)]
        return label, shown[0], shown[1]

    entries = [
        entry("tokens read", "tokens_in", "", False),
        entry("tokens written", "tokens_out", "", False),
        entry("cost", "cost", " USD", True),
        entry("time of generating", "seconds", " s", True),
    ]
    return [found for found in entries if found[1:] != (NOTHING, NOTHING)]


def _uncompared(report: Report) -> list[Entry]:
    """Metrics of whole runs, which have no value for each row and hence no paired comparison."""
    compared, a, b = report["comparison"]["metrics"], report["a"]["metrics"], report["b"]["metrics"]
    names = [name for name in dict.fromkeys((*a, *b)) if name not in compared]
    means = [[side[name]["mean"] if name in side else None for side in (a, b)] for name in names]
    return [(name, number(left), number(right)) for name, (left, right) in zip(names, means, strict=True)]


def _figure(side: Side, name: str) -> float | None:
    value: float | None = side.get(name)  # type: ignore[assignment]  # the four names above are numbers or None
    return value


def _head(first: str, a: Side, b: Side) -> list[Markup | str]:
    names = [joined([letter, element("small", element("bdi", side["name"]))]) for letter, side in (("A", a), ("B", b))]
    return [first, *(element("th", name, scope="col") for name in names)]


def _line(entry: Entry, *, mark: bool) -> Markup:
    label, a, b = entry
    differs = mark and a != b
    sign = element("span", "≠ ", title="differs") if differs else None
    cells = [element("td", element("bdi", value)) for value in (a, b)]
    return element("tr", element("th", sign, label, scope="row"), *cells, class_="differs" if differs else None)


def _shown(value: Any) -> str:
    if value is None:
        return NOTHING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
