"""What changed in the text of a prompt: lines taken out and put in, with the words that differ marked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

from llmops.evaluation.reports.contents import Turn

Parts = tuple[tuple[str, bool], ...]
_UNCHANGED_AROUND = 3
_ALIKE = 0.5  # share of common words from which two lines are shown as one line that changed
_WORDS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the prompt. side: whose it is. parts: its text in pieces, and whether each differs."""

    side: Literal["both", "a", "b"]
    parts: Parts


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines that both prompts share, far from any change."""

    lines: tuple[str, ...]


def prompt_lines(turns: Sequence[Turn]) -> list[str]:
    """The prompt as one text: each turn headed by its role."""
    return [line for turn in turns for line in (f"# {turn['role']}", *turn["content"].splitlines(), "")][:-1]


def prompt_diff(a: Sequence[Turn], b: Sequence[Turn]) -> list[Line | Gap]:
    """Both prompts in one column, as a reader of diffs expects: what a lost before what b gained."""
    before, after = prompt_lines(a), prompt_lines(b)
    operations = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    found: list[Line | Gap] = []
    for position, (kind, low_a, high_a, low_b, high_b) in enumerate(operations):
        if kind == "equal":
            found.extend(_unchanged(before[low_a:high_a], position > 0, position < len(operations) - 1))
        else:
            found.extend(_changed(before[low_a:high_a], after[low_b:high_b]))
    return found


def _unchanged(lines: Sequence[str], after_change: bool, before_change: bool) -> Iterator[Line | Gap]:
    head = _UNCHANGED_AROUND if after_change else 0
    tail = max(head, len(lines) - (_UNCHANGED_AROUND if before_change else 0))
    if tail - head <= _UNCHANGED_AROUND:
        head = tail  # as short as this, the lines say no less than their number
    yield from (_whole("both", line) for line in lines[:head])
    if lines[head:tail]:
        yield Gap(tuple(lines[head:tail]))
    yield from (_whole("both", line) for line in lines[tail:])


def _changed(before: Sequence[str], after: Sequence[str]) -> Iterator[Line]:
    """What was lost, then what came in its place; words are marked where a line has a likeness opposite."""
    marked_a: dict[int, Parts] = {}
    marked_b: dict[int, Parts] = {}
    for position, (left, right) in enumerate(zip(before, after, strict=False)):
        marked = _marked(_WORDS.findall(left), _WORDS.findall(right))
        if marked:
            marked_a[position], marked_b[position] = marked
    yield from (Line("a", marked_a.get(position, ((line, False),))) for position, line in enumerate(before))
    yield from (Line("b", marked_b.get(position, ((line, False),))) for position, line in enumerate(after))


def _marked(words_a: Sequence[str], words_b: Sequence[str]) -> tuple[Parts, Parts] | None:
    """Both lines in pieces, with the words marked that only one of them has; None when they are not alike."""
    matcher = SequenceMatcher(None, words_a, words_b, autojunk=False)
    if matcher.ratio() < _ALIKE:
        return None
    parts_a, parts_b = [], []
    for kind, low_a, high_a, low_b, high_b in matcher.get_opcodes():
        parts_a.append(("".join(words_a[low_a:high_a]), kind != "equal"))
        parts_b.append(("".join(words_b[low_b:high_b]), kind != "equal"))
    return tuple(part for part in parts_a if part[0]), tuple(part for part in parts_b if part[0])


def _whole(side: Literal["both", "a", "b"], line: str) -> Line:
    return Line(side, ((line, False),))
