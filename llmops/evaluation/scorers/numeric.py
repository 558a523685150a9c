"""Is the number in an output the expected one?"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers import parameters
from llmops.evaluation.scorers.numbers import EXACT, ReadNumber, read_numbers, read_whole
from llmops.evaluation.scorers.protocol import MissingExpectation, Scorer, expected_answers

_PLACES = ("last", "first")
_RELATIVE = 1e-9


class Numeric:
    """True when the number in the output is the expected one.

    take: the `last` number of the output (for answers that show their working first), or the `first`. expected_take:
    the same for an expected answer with several numbers; it is independent of `take`, so an expected working that ends
    in the answer is read from its end. The expected number is `expected_number`, otherwise taken from an expected
    answer. absolute, relative: tolerances, of which the wider applies; absolute is in the unit in which the expected
    number is written, relative is a share of it. Without a tolerance, whole numbers of any length must be equal, and
    other numbers may differ by a billionth. A percentage matches both its number and its hundredth: 50% is right where
    50, 0.5 or 50% is expected; 5‰, 2k, 1.5M and “1.5 million” are treated likewise. A fraction is read as its value
    (3/4 is 0.75, not 4), and so is a power (2³ is 8). Digits of every script are read, with English, French, German,
    Swiss or Indian grouping. A number in brackets is negative if it has a currency: $(5) is -5, (5) is 5.

    Not counted: currencies and units. Not read: number words (“five”), and dates, times, ratios (10:30) and versions
    (1.2.3), because they are not numbers.
    """

    higher_is_better: bool | None = True
    worst: float | None = 0.0
    limits: tuple[float, float] = (0.0, 1.0)

    def __init__(
        self,
        name: str,
        take: str = "last",
        expected_take: str = "last",
        absolute: float | None = None,
        relative: float | None = None,
    ) -> None:
        self.name = name
        self._take = parameters.one_of("take", take, _PLACES)
        self._expected_take = parameters.one_of("expected_take", expected_take, _PLACES)
        self._absolute = None if absolute is None else Decimal(repr(parameters.number("absolute", absolute)))
        self._relative = None if relative is None else Decimal(repr(parameters.number("relative", relative)))

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = self._expected(row)
        got = _number(output.text, self._take)
        if got is None:
            return Score(False, f"holds no number; expected {expected[0]}")
        hit = next((wanted for wanted in expected if self._same(got, wanted)), None)
        return Score(hit is not None, f"reads {got}; expected {hit or expected[0]}")

    def _expected(self, row: EvalRow) -> list[ReadNumber]:
        given = row.expectations.get("expected_number")
        if given is not None:
            number = _number(given, self._expected_take) if isinstance(given, str) else _as_number(given)
            if number is None:
                raise MissingExpectation(f"row {row.id}: expected_number is no number: {given!r}")
            return [number]
        found = [number for answer in expected_answers(row) if (number := _number(answer, self._expected_take))]
        if not found:
            raise MissingExpectation(f"row {row.id}: no expected answer holds a number")
        return found

    def _same(self, got: ReadNumber, expected: ReadNumber) -> bool:
        as_written = got.power == expected.power or 0 in (got.power, expected.power)
        if as_written and self._close(got.value, expected.value):
            return True
        return self._close(got.worth, expected.worth, expected.power)

    def _close(self, got: Decimal, expected: Decimal, power: int = 0) -> bool:
        """power: of ten, of the unit in which a tolerance is meant: that of the expected number as it is written."""
        if got == expected:
            return True
        relative = self._relative
        if relative is None and self._absolute is None and not (_whole(got) and _whole(expected)):
            relative = Decimal(repr(_RELATIVE))
        absolute = (self._absolute or Decimal(0)).scaleb(power, EXACT)
        allowed = max(absolute, EXACT.multiply(relative or Decimal(0), EXACT.abs(expected)))
        return EXACT.abs(EXACT.subtract(got, expected)) <= allowed


def _number(text: str, take: str) -> ReadNumber | None:
    """The number that is the whole text, else the last or first in it."""
    if (whole := read_whole(text)) is not None:
        return whole
    numbers = read_numbers(text)
    return numbers[-1 if take == "last" else 0] if numbers else None


def _as_number(given: Any) -> ReadNumber | None:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        return None
    return ReadNumber(Decimal(given) if isinstance(given, int) else Decimal(repr(given)))


def _whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


TYPES: dict[str, Callable[..., Scorer]] = {"numeric": Numeric}
