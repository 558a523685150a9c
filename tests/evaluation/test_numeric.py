"""Numbers in prose: how they are read, and when two are the same."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.numeric import ReadNumber, read_numbers
from llmops.evaluation.scorers.protocol import MissingExpectation


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", []),
        ("none at all", []),
        ("It is 42.", [42]),
        ("1,234,567.5 km", [1234567.5]),
        ("1\u202f234 and 5\u00a0678", [1234, 5678]),
        ("1,2 and 3", [1, 2, 3]),
        ("1,2345", [1, 2345]),
        ("-3 and −4 and +5", [-3, -4, 5]),
        ("10-12", [10, 12]),
        ("10–12", [10, 12]),
        ("x=-5", [-5]),
        ("(3)-5", [3, 5]),
        ("$5.50, -$6, $-7", [5.5, -6, -7]),
        ("5km or 3rd", [5, 3]),
        ("H2O and GPT4", []),
        (".5", [0.5]),
        ("2e3, 2E-3, 5em", [2000, 0.002, 5]),
        ("3 × 10^8, 3x10^{-2}, 2·10⁻³", [3e8, 0.03, 0.002]),
        ("3 x 10 is 30", [3, 10, 30]),
        ("#### 72", [72]),
        (r"\boxed{42}", [42]),
        ("**7**", [7]),
        ("١٢", [12]),
    ],
)
def test_numbers_are_read_in_order(text: str, values: list[float]) -> None:
    assert [number.value for number in read_numbers(text)] == pytest.approx(values)


@pytest.mark.parametrize("text", ["50%", "50 %", "50 percent", "50 per cent"])
def test_percentages_are_told_apart(text: str) -> None:
    assert read_numbers(text) == [ReadNumber(50.0, percent=True)]
    assert read_numbers("50 percentiles") == [ReadNumber(50.0)]


@given(st.integers(-(10**15), 10**15))
def test_a_whole_number_with_thousands_separators_is_read_back(number: int) -> None:
    assert read_numbers(f"so {number:,}.") == [ReadNumber(float(number))]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_as_python_writes_it_is_read_back(number: float) -> None:
    assert read_numbers(repr(number)) == [ReadNumber(number)]


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    assert all(isinstance(number.value, float) for number in read_numbers(text))


@pytest.mark.parametrize("text", ["1" * 200_000, "1," * 50_000, "-" * 200_000, "1 x 10" * 30_000])
def test_a_hostile_text_costs_little(text: str) -> None:
    start = time.process_time()

    read_numbers(text)

    assert time.process_time() - start < 2


def verdict(output: str, parameters: dict[str, object] | None = None, **expectations: object) -> object:
    row = EvalRow("r1", {"q": "x"}, expectations)
    return make_scorer("s", "numeric", parameters or {}).score(row, Output(output)).value


@pytest.mark.parametrize(
    ("output", "parameters", "right"),
    [
        ("3 and 4 make 7", {}, True),
        ("7 = 3 + 4", {}, False),
        ("7 = 3 + 4", {"take": "first"}, True),
        ("7.05", {}, False),
        ("7.05", {"absolute": 0.1}, True),
        ("7.05", {"relative": 0.01}, True),
        ("7.05", {"relative": 0.001}, False),
        ("7.0000000001", {}, True),
        ("seven", {}, False),
        ("1e999", {}, False),
    ],
)
def test_the_number_taken_is_compared_within_the_tolerance(
    output: str, parameters: dict[str, object], right: bool
) -> None:
    assert verdict(output, parameters, expected_number=7) is right


@pytest.mark.parametrize(
    ("output", "expected", "right"),
    [
        ("50%", 0.5, True),
        ("50%", 50, True),
        ("0.5", 0.5, True),
        ("5%", 0.5, False),
        ("50", 0.5, False),
    ],
)
def test_a_percentage_meets_its_number_and_its_hundredth(output: str, expected: float, right: bool) -> None:
    assert verdict(output, expected_number=expected) is right


@pytest.mark.parametrize(("output", "right"), [("50%", True), ("0.5", True), ("50", True), ("0.5%", False)])
def test_an_expected_percentage_is_met_the_same_way(output: str, right: bool) -> None:
    assert verdict(output, answers=["50%"]) is right


def test_the_expected_number_may_stand_in_an_answer() -> None:
    assert verdict("It is 72.", expected_response="3 + 69 = 72") is True
    assert verdict("1,000", answers=["one", "1000"]) is True
    assert verdict("8", expected_number=8, answers=["9"]) is True


def test_the_rationale_says_what_was_read_and_expected() -> None:
    row = EvalRow("r1", {"q": "x"}, {"expected_number": 41})
    scorer = make_scorer("s", "numeric", {})

    assert scorer.score(row, Output("so 42")).rationale == "reads 42; expected 41"
    assert scorer.score(row, Output("so")).rationale == "holds no number; expected 41"


@pytest.mark.parametrize(
    "expectations",
    [{}, {"answers": ["none"]}, {"expected_number": "7"}, {"expected_number": True}, {"expected_number": float("inf")}],
)
def test_a_row_without_an_expected_number_is_not_scored(expectations: dict[str, object]) -> None:
    with pytest.raises(MissingExpectation, match="r1"):
        verdict("7", **expectations)


@pytest.mark.parametrize(
    ("parameters", "named"),
    [({"take": "middle"}, "take: "), ({"absolute": -1}, "absolute: "), ({"relative": "1%"}, "relative: ")],
)
def test_a_wrong_parameter_is_named(parameters: dict[str, object], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_scorer("s", "numeric", parameters)
    assert str(caught.value).startswith(named)
