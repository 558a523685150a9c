"""The number in an output, and whether it is the expected one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.protocol import MissingExpectation, Scorer, expected_answers

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_MINUS = str.maketrans("−", "-")

# English notation: a comma or a fixed space between thousands, a point before decimals. A sign counts only where it is
# not glued to a word before it: "10-12" holds 10 and 12.
_NUMBER = re.compile(
    r"(?<![\w.])(?P<sign>(?<![\w)])[-−+])?[$€£¥]?"
    r"(?P<digits>\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?:[eE](?P<e>[-−+]?\d{1,4})(?!\w)"
    r"|\s?[×x*·]\s?10(?:\^\{?(?P<power>[-−+]?\d{1,4})\}?|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})))?"
    r"(?P<percent>\s?(?:%|per ?cent\b))?"
)


@dataclass(frozen=True, slots=True)
class ReadNumber:
    """value: as written, so 50 for “50 %”. percent: whether it was written as a percentage."""

    value: float
    percent: bool = False


def read_numbers(text: str) -> list[ReadNumber]:
    """Every number of a text, in order: `1,234.5`, `-3`, `$5`, `2e-3`, `3 × 10^8`, `50%`. Not: fractions, words."""
    return [_read(found) for found in _NUMBER.finditer(text)]


def _read(found: re.Match[str]) -> ReadNumber:
    digits = re.sub(r"[,\u00a0\u202f]", "", found["digits"])
    raised = found["raised"].translate(_SUPERSCRIPTS) if found["raised"] else None
    exponent = (found["e"] or found["power"] or raised or "0").translate(_MINUS)
    sign = "-" if found["sign"] in ("-", "−") else ""
    return ReadNumber(float(f"{sign}{digits}e{exponent}"), found["percent"] is not None)


class Numeric:
    """True when the number in the output is the expected one, within a tolerance.

    take: the `last` number of the output (where answers with their working end), or the `first`. absolute, relative:
    how far off it may be; relative to the expected number; the wider of both counts. The expected number is
    `expected_number`, else the number in an expected answer, taken the same way. A percentage meets its own number
    and its hundredth: 50% is right where 50, 0.5 or 50% is expected.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(self, name: str, take: str = "last", absolute: float = 0.0, relative: float = 1e-9) -> None:
        self.name = name
        self._index = -1 if parameters.one_of("take", take, ("last", "first")) == "last" else 0
        self._absolute = parameters.number("absolute", absolute)
        self._relative = parameters.number("relative", relative)

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = self._expected(row)
        numbers = read_numbers(output.text)
        if not numbers:
            return Score(False, f"holds no number; expected {_written(expected[0])}")
        got = numbers[self._index]
        hit = next((wanted for wanted in expected if self._same(got, wanted)), None)
        return Score(hit is not None, f"reads {_written(got)}; expected {_written(hit or expected[0])}")

    def _expected(self, row: EvalRow) -> list[ReadNumber]:
        given = row.expectations.get("expected_number")
        if given is not None:
            if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
                raise MissingExpectation(f"row {row.id}: expected_number is no number: {given!r}")
            return [ReadNumber(float(given))]
        found = [numbers[self._index] for answer in expected_answers(row) if (numbers := read_numbers(answer))]
        if not found:
            raise MissingExpectation(f"row {row.id}: no expected answer holds a number")
        return found

    def _same(self, got: ReadNumber, expected: ReadNumber) -> bool:
        if self._close(got.value, expected.value):
            return True
        if got.percent == expected.percent:
            return False
        if got.percent:
            return self._close(got.value / 100, expected.value)
        return self._close(got.value, expected.value / 100)

    def _close(self, got: float, expected: float) -> bool:
        off = abs(got - expected)
        return math.isfinite(off) and off <= max(self._absolute, self._relative * abs(expected))


def _written(number: ReadNumber) -> str:
    return f"{number.value:.12g}{'%' if number.percent else ''}"


TYPES: dict[str, Callable[..., Scorer]] = {"numeric": Numeric}
