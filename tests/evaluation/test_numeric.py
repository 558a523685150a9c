"""Numbers in prose: how they are read, and when two are the same."""

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer
from llmops.evaluation.scorers.numeric import ReadNumber, read_numbers, read_whole


def verdict(output: str, parameters: dict[str, object] | None = None, **expectations: object) -> object:
    row = EvalRow("r1", {"q": "x"}, expectations)
    return make_scorer("s", "numeric", parameters or {}).score(row, Output(output)).value


@pytest.mark.parametrize(
    ("text", "values"),
    [
        # In order.
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
        # A fraction is one number.
        ("3/4 of it", [0.75]),
        ("-3/8 and −1/2", [-0.375, -0.5]),
        ("½ cup, 2½ cups, 2 ½ cups", [0.5, 2.5, 2.5]),
        ("1 3/4 hours", [1.75]),
        (r"\frac{3}{4}, 1\dfrac{1}{2}, -\tfrac{1}{4}", [0.75, 1.5, -0.25]),
        ("1⁄4", [0.25]),
        ("48/2 = 24", [24, 24]),
        ("5/0", [5, 0]),
        ("1.5/3", [1.5, 3]),
        ("at 120 km/h", [120]),
        # Powers and signs as they are meant.
        ("2², 2³ and 2⁻¹", [4, 8, 0.5]),
        ("2^10 = 1,024", [1024, 1024]),
        ("2**3 and 2 ** 3", [8, 8]),
        ("10 **5** times", [10, 5]),
        ("10 m², H₂O", [10]),
        ("3⋅10⁵ = 3 * 10 ** 5", [3e5, 3e5]),
        (r"2\frac12", [2.5]),
        ("0x1F", [31]),
        ("4\u200b2 and 1\u00ad234", [42, 1234]),
        ("‑5, ‐6", [-5, -6]),
        ("EUR5 and Rs.500", [5, 500]),
        ("minus 5", [-5]),
        ("**Negative 5.5**", [-5.5]),
        ("10 minus 5", [10, 5]),
        # Beside letters in scripts that put no spaces.
        ("答案是42。", [42]),
        ("価格は１，２３４円です", [1234]),
        ("คือ๔๒บาท", [42]),
        ("약50개, 가격은1,234원", [50, 1234]),
        ("温度は−5℃", [-5]),
        ("从10-12", [10, 12]),
        ("是3/4", [0.75]),
        ("GPT4, Нет42, é42", []),
    ],
)
def test_numbers_of_a_text_are_read_in_order(text, values):
    assert [float(number.value) for number in read_numbers(text)] == pytest.approx(values)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$(1,234)", -1234),
        ("($1,234.50)", -1234.5),
        ("**(€20)**", -20),
        ("(1,234 €)", -1234),
        ("USD (5)", -5),
        ("(1,234)", None),
        ("(5 kg)", None),
        ("$(3) + (4)$", None),
    ],
)
def test_a_loss_in_brackets_is_negative_where_it_is_the_whole_answer(text, value):
    whole = read_whole(text)
    assert (whole and float(whole.value)) == value
    assert [float(number.value) for number in read_numbers("a fee ($1,234)")] == [1234]


def test_percentages_are_told_apart_and_what_only_looks_like_a_number_is_none():
    for text in ("50%", "50 %", "50 percent", "50 per cent"):
        assert read_numbers(text) == [ReadNumber(Decimal(50), power=-2)]
    assert read_numbers("50 percentiles") == [ReadNumber(Decimal(50))]
    for written in ("2026-01-31", "2026-01-31T10:30:00Z", "3/4/2026", "10:30", "3:4", "1.2.3", "10.0.0.1"):
        assert read_numbers(written) == []
        assert [str(number) for number in read_numbers(f"After {written}: 5.")] == ["5"]


@given(st.integers(-(10**15), 10**15))
def test_a_whole_number_with_thousands_separators_is_read_back(number):
    assert read_numbers(f"so {number:,}.") == [ReadNumber(Decimal(number))]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_as_python_writes_it_is_read_back(number):
    assert read_numbers(repr(number)) == [ReadNumber(Decimal(repr(number)))]


@given(st.text())
def test_no_text_breaks_the_reader(text):
    assert all(isinstance(number.value, Decimal) for number in read_numbers(text))
    read_whole(text)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 100_000,
        "1," * 25_000,
        "-" * 100_000,
        "1 x 10" * 15_000,
        "1 000 " * 20_000,
        "1.000" * 20_000,
        "1\u202f000" * 20_000,
        "9" * 100_000 + "^9999",
        "1:2.3.4/5-" * 10_000,
        "5 hundred" * 10_000,
    ],
)
def test_a_hostile_text_costs_little(text):
    start = time.process_time()
    read_numbers(text)
    read_whole(text)
    assert time.process_time() - start < 10  # of CPU, half a second alone; what is quadratic takes minutes


WRITTEN = [
    ("1,234.5", 1234.5), ("1.234,5", 1234.5), ("1\u00a0234,5", 1234.5), ("1\u202f234.5", 1234.5),
    ("1\u2009234.5", 1234.5), ("1'234.5", 1234.5), ("1’234.5", 1234.5), ("1 234,5", 1234.5), ("1234,5", 1234.5),
    ("1,234", 1234), ("1.234.567", 1234567), ("1 000 000", 1000000), ("1\u00a0000\u00a0000", 1000000),
    (r"$9{,}500", 9500), (r"9\,500", 9500), (r"\$9{,}500", 9500), (r"\boxed{1 000 000}", 1000000),
    ("₹12,34,567.50", 1234567.5), ("12,34,567", 1234567), ("−5", -5), ("–5", -5), ("-$5", -5), ("$-5", -5), ("－5", -5),
    ("5 €", 5), ("12,50 €", 12.5), ("USD 1 000 000", 1000000), ("1 000 000 USD", 1000000), ("£1,000", 1000),
    ("1.5e6", 1500000), ("1.5E-3", 0.0015), ("3 × 10^8", 300000000), (r"3 \times 10^{8}", 300000000),
    ("2·10⁻³", 0.002), ("10^6", 1000000), ("0,75", 0.75), ("٣٫٥", 3.5), ("१२", 12), ("１２", 12), ("**42**.", 42),
]  # fmt: skip


@pytest.mark.parametrize(("written", "value"), WRITTEN)
def test_a_number_is_right_however_the_output_or_the_expected_answer_writes_it(written, value):
    assert verdict(written, expected_number=value) is True
    assert verdict(written, answers=[written]) is True
    assert verdict(written, expected_number=value * 10) is False
    assert verdict(written, expected_number=value + 1) is False
    assert verdict(str(value), answers=[written]) is True
    assert verdict(str(value + 0.5), answers=[written]) is False


def test_the_rationale_says_what_was_read_and_expected():
    row = EvalRow("r1", {"q": "x"}, {"expected_number": 41})
    scorer = make_scorer("s", "numeric", {})
    assert scorer.score(row, Output("so 42")).rationale == "reads 42; expected 41"
    assert scorer.score(row, Output("so")).rationale == "holds no number; expected 41"


WORKING = "Each box holds 3 eggs. 4 boxes make 3 * 4 = 12 eggs.\n#### 12"
# Output, options, what is expected, whether that is right.
VERDICTS: list[tuple[str, dict[str, object], dict[str, object], bool]] = [
    # The number taken, within the tolerance.
    ("3 and 4 make 7", {}, {"expected_number": 7}, True),
    ("7 = 3 + 4", {}, {"expected_number": 7}, False),
    ("7 = 3 + 4", {"take": "first"}, {"expected_number": 7}, True),
    ("7.05", {}, {"expected_number": 7}, False),
    ("7.05", {"absolute": 0.1}, {"expected_number": 7}, True),
    ("7.05", {"relative": 0.01}, {"expected_number": 7}, True),
    ("7.05", {"relative": 0.001}, {"expected_number": 7}, False),
    ("7.0000000001", {}, {"expected_number": 7}, True),
    ("seven", {}, {"expected_number": 7}, False),
    ("1e999", {}, {"expected_number": 7}, False),
    # Whole numbers exactly, unless a tolerance is set; however the expected number is given.
    *(
        (output, options, expectations, right)
        for output, expected, options, right in [
            ("123456789013", 123456789012, {}, False),
            ("123456789012", 123456789012, {}, True),
            ("123456789012.0", 123456789012, {}, True),
            ("123456789013", 123456789012, {"absolute": 1}, True),
            ("123456789013", 123456789012, {"relative": 1e-9}, True),
            ("100000000000000000000000000000001", 10**32, {}, False),
            ("100000000000000000000000000000001", 10**32 + 1, {}, True),
            ("100000000000000000000000000000002", 10**32, {"absolute": 1}, False),
            ("0.30000000000000004", 0.3, {}, True),
            ("0.30001", 0.3, {}, False),
            ("-0", 0, {}, True),
            ("0.0", 0, {}, True),
        ]
        for expectations in ({"expected_number": expected}, {"answers": [str(expected)]})
    ),
    # A tolerance is meant in the unit of the expected number.
    *((output, {"absolute": 1}, {"answers": ["50%"]}, True) for output in ("50.5%", "0.505", "49")),
    *((output, {"absolute": 1}, {"answers": ["50%"]}, False) for output in ("1.2", "0.9", "52%")),
    # A fraction by its value; a percentage or a factor by its number and its worth.
    ("The answer is 3/4.", {}, {"answers": ["3/4"]}, True),
    ("3/4", {}, {"answers": ["1/4"]}, False),
    ("0.75", {}, {"answers": ["3/4"]}, True),
    ("75%", {}, {"answers": ["¾"]}, True),
    ("50%", {}, {"expected_number": 0.5}, True),
    ("50%", {}, {"expected_number": 50}, True),
    ("0.5", {}, {"expected_number": 0.5}, True),
    ("5%", {}, {"expected_number": 0.5}, False),
    ("50", {}, {"expected_number": 0.5}, False),
    *((output, {}, {"answers": ["50%"]}, output != "0.5%") for output in ("50%", "0.5", "50", "0.5%")),
    *(
        (output, {}, {"answers": [expected]}, right)
        for output, expected, right in [
            ("5‰", "5‰", True), ("5‰", "0.005", True), ("0.5%", "5‰", True), ("5%", "5‰", False), ("5‰", "5", True),
            ("1.5M", "1,500,000", True), ("1.5 million", "1500000", True), ("1.5M", "1.5 million", True),
            ("1.5 million", "1.5", True), ("1.5 billion", "1.5 million", False), ("2k", "2000", True),
            ("2k", "2M", False), ("2000", "2k", True), ("$3bn", "3,000 million", True), ("2km", "2000", False),
            ("5 hundred thousand", "500000", True), ("2 lakh", "2,00,000", True), ("1,5 Mio.", "1.5 million", True),
            ("2kg", "2", True), ("约3万人", "30000", True), ("3万", "3亿", False), ("1.5億円", "150,000,000", True),
            ("5억", "500 million", True), ("2³", "2²", False), ("2²", "22", False), ("2", "2²", False),
        ]
    ),
    # Digits of every script are read alike.
    *(
        (output, {}, {"answers": ["1234"]}, True)
        for output in ("１，２３４", "१,२३४", "١٬٢٣٤", "१ २३४", "1’234", "๑,๒๓๔", "𝟏,𝟐𝟑𝟒")
    ),
    # Spaces stand between numbers in a sentence.
    ("page 12 345", {}, {"expected_number": 345}, True),
    ("page 12 345", {}, {"expected_number": 12345}, False),
    ("I have 1,2 or 3", {}, {"expected_number": 3}, True),
    ("3 000 or 4", {}, {"expected_number": 4}, True),
    ("There are 1 000 000 of them", {}, {"expected_number": 1000000}, True),
    ("It costs 1 234,50 €.", {}, {"expected_number": 1234.5}, True),
    ("It is 12 045.", {}, {"expected_number": 12045}, True),
    # An expected working is read by its end, whichever number is taken of the output.
    *(("12", {"take": take}, {"expected_response": WORKING}, True) for take in ("first", "last")),
    *(("3", {"take": take}, {"expected_response": WORKING}, False) for take in ("first", "last")),
    ("3", {"expected_take": "first"}, {"expected_response": WORKING}, True),
    ("3", {"take": "first", "expected_take": "first"}, {"expected_response": WORKING}, True),
    # The expected number may stand in an answer, or be text, as every cell of a CSV file is.
    ("It is 72.", {}, {"expected_response": "3 + 69 = 72"}, True),
    ("1,000", {}, {"answers": ["one", "1000"]}, True),
    ("8", {}, {"expected_number": 8, "answers": ["9"]}, True),
    ("1234", {}, {"expected_number": "1,234"}, True),
    ("1234", {}, {"expected_number": "1234"}, True),
    ("1234", {}, {"expected_number": "1235"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("output", "options", "expectations", "right"), VERDICTS)
def test_the_number_taken_is_right_by_what_it_says(output, options, expectations, right):
    assert verdict(output, options, **expectations) is right
