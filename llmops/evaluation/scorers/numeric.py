"""Numbers in text: which there are, what they say, and whether the one in an output is the expected one.

| written | read as |
| --- | --- |
| `1,234.5`, `1 234.5` and `1 234,5` with a fixed or thin space, `1.234,5`, `1'234.5`, `12,34,567` | the number |
| `9{,}500`, `9\\,500`, `3 \\times 10^{8}`, `50\\%` | as LaTeX shows it |
| `-3`, `−3`, `$5`, `5 €`, `₹1,23,456`, `USD 5`, `EUR5` | with its sign, without its currency |
| `minus 3`, `negative 3` | -3 where it begins the text |
| `2e-3`, `3 × 10^8`, `2·10⁻³`, `10^6`, `2³`, `2^10`, `0x1F` | the number: 2³ is 8, neither 2 nor 23 |
| `50%`, `50 percent`, `5‰` | 50 and 5, and that they are percentages, or thousandths |
| `2k`, `1.5M`, `$3bn`, `1.5 million`, `2 lakh`, `3万`, `5억` | 2 and 1.5 and so on, and what they are multiplied by |
| `3/4`, `½`, `2½`, `1 3/4`, `\\frac{3}{4}` | the fraction; but both numbers of `5/0` |
| `$(1,234)`, `(1,234 €)`, `USD (1,234)` | -1234 where it is the whole answer, as in accounts; 1234 in a sentence |
| `(1,234)` | 1234: brackets without a currency are only brackets |
| `१२३`, `１，２３４` | 123 and 1234: the decimal digits of every script |
| `答案是42。`, `คือ42`, `約-5` | the number: in scripts without spaces it stands beside letters |
| `1,234` and `1.234` | 1234 and 1.234: English, where both are possible |
| `1,2` | 1 and 2 in a sentence; 1.2 where it is the whole answer |
| `12 345` | 12 and 345 in a sentence (“page 12 345”); 12345 where it is the whole answer |
| `12 000`, `1 234,50 €` | the number, in a sentence too: none of its own begins with 0, and money has decimals |

Not read: words (“five”), numerals that are no decimal digits (`Ⅳ`, `千`), digits inside words (`H2O`), and what only
looks like a number: dates (`2026-01-31`, `3/4/2026`), times and ratios (`10:30`), versions and addresses (`1.2.3`).
"""

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Literal

from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, Score
from llmops.evaluation.scorers.normalisation import LETTERS_WITHOUT_SPACES, with_minus
from llmops.evaluation.scorers.protocol import Amount, Correctness, MissingExpectation, Scorer, expected_answers

_RELATIVE = 1e-9  # tolerance of numbers with decimals, unless another is set
EXACT = Context(prec=60, Emax=MAX_EMAX, Emin=MIN_EMIN)
"""To count with what is read: enough digits for any answer, and room for any power."""

_UNSEEN = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_SIGNS = str.maketrans({
    "﹣": "-", "－": "-", "＋": "+", "％": "%", "٪": "%", "؉": "‰", "．": ".", "，": ",", "﹐": ",", "٫": ".",
    "٬": "\u202f", "’": "'", "ʼ": "'", "⁄": "/", "∕": "/", "\u2009": "\u202f", "\u2007": "\u202f", "\u00a0": "\u202f",
    "＄": "$", "￥": "¥", "⋅": "·", "∙": "·", "∗": "*", "✕": "×", "⨯": "×",
})  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LATEX = (
    (re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{([^{}]{0,100})\}"), r" \1 "),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"(?<=\d)(?:\\[,;:! ]|~)(?=\d)"), "\u202f"),
    (re.compile(r"\\([%$€£])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "×"),
    (re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<=\d)\s?\\[dt]?frac(?=\{\d)"), r" \\frac"),
    (re.compile(r"\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}"), r"\1/\2"),
)
_ONE_SIGN_FRACTIONS = re.compile(r"(?P<after>(?<=\d)\s?)?(?P<sign>[¼-¾⅐-⅞↉])")
_MONEY = "$€£¥₹₽₩₺₴₪₫฿₦"
_AFTER_LETTERS = re.compile(rf"(?<=[{LETTERS_WITHOUT_SPACES}\uac00-\ud7a3])(?=[-+]?[{_MONEY}]?[\d.])")
_CURRENCY = "(?:USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|SEK|NOK|DKK|PLN|BRL|Rs)"
_SPELLED = (
    (re.compile(r"\A(?P<marks>[\s*_`\"“]*)(?:minus|negative)\s(?=[\d.$€£¥])", re.IGNORECASE), r"\g<marks>-"),
    (re.compile(rf"\b{_CURRENCY}\.?(?=\d)"), ""),
)
_OF_ANOTHER_BASE = re.compile(r"(?<!\w)0(?:[xX][0-9a-fA-F]{1,99}|[bB][01]{1,99}|[oO][0-7]{1,99})(?!\w)")
# A version or an address; a time or a ratio; a date, with its time. Not 1.234.567, which is grouped by thousands.
_NO_NUMBERS = re.compile(
    r"(?<![\w.,:/])(?:(?!\d{1,3}(?:\.\d{3})+(?![.\d]))\d+(?:\.\d+){2,}|\d+(?::\d+)+(?:\.\d+)?"
    r"|(?<!-)\d{4}-\d\d-\d\d(?!-\d)(?:[T ]\d\d:\d\d[\d:.]*)?Z?|\d{1,4}/\d{1,2}/\d{1,4})(?![\w/]|[.,:]\d)"
)
_EXPONENT = (
    r"(?:(?:\^|\*\*| \^ | \*\* )\{?(?P<to>[-+]?\d{1,4})\}?(?![\d.]\d?)|(?P<raised_to>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})"
    r"|[eE](?P<e>[-+]?\d{1,4})(?!\w)"
    r"|\s?[×x*·]\s?10(?:(?:\^|\*\*| \^ | \*\* )\{?(?P<power>[-+]?\d{1,4})\}?|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})))?"
)
_SHARES = {"%": -2, "percent": -2, "per cent": -2, "pct": -2, "‰": -3, "per mille": -3, "per mil": -3, "‱": -4}
_LETTERS = {"k": 3, "K": 3, "M": 6, "mn": 6, "B": 9, "bn": 9, "T": 12, "tn": 12}
_WORDS = {
    "hundred": 2, "thousand": 3, "lakh": 5, "million": 6, "mio": 6, "mn": 6, "crore": 7, "billion": 9, "bn": 9,
    "mrd": 9, "trillion": 12, "tn": 12,
}  # fmt: skip
_SIGNS_OF_TENS = {"百": 2, "千": 3, "万": 4, "萬": 4, "亿": 8, "億": 8, "천": 3, "만": 4, "억": 8}
_FACTOR = (
    rf"(?:\s?(?P<share>[%‰‱]|(?i:percent|per cent|pct|per mille|per mil)\b)"
    rf"|(?P<letter>{'|'.join(sorted(_LETTERS, key=len, reverse=True))})(?!\w)"
    rf"|(?P<tens>[{''.join(_SIGNS_OF_TENS)}]+)"
    rf"|(?P<words>(?:\s(?i:{'|'.join(_WORDS)})s?\b)+))?"
)
# A sign counts only where it is not glued to a word before it: “10-12” holds 10 and 12.
_NUMBER = re.compile(
    rf"(?<!\w)(?<!\d\.)(?P<sign>(?<![\w)])[-+])?[{_MONEY}]?(?P<inner>(?<![\w)\-+])[-+])?"
    r"(?P<digits>"
    r"\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?"  # 1,234.5
    r"|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])(?:\.\d+)?"  # 12,34,567.5
    r"|\d{1,3}(?:\.\d{3})+,\d+(?!,?\d)"  # 1.234,5
    r"|\d{1,3}(?:\.\d{3}){2,}(?![.,]?\d)"  # 1.234.567
    r"|\d{1,3}(?:\u202f\d{3})+(?!\d)(?:[.,]\d+(?!,?\d))?"  # 1 234,5, the space being fixed
    # 1 000 000 and 1 234,50 €: with plain spaces where no number of its own would begin with 0, or money follows.
    r"|\d{1,3}(?: \d{3})*? 0\d\d(?: \d{3})*(?!\d)(?:[.,]\d+(?!,?\d))?"
    rf"|\d{{1,3}}(?: \d{{3}})+,\d+(?=\s?[%{_MONEY}])"
    r"|\d{1,3}(?:'\d{3})+(?!\d)(?:\.\d+)?"  # 1'234.5
    r"|\d{1,3}(?:_\d{3})+(?!\w)(?:\.\d+)?"  # 1_234
    rf"|\d+,\d+(?=\s?[%{_MONEY}])|0,\d+(?!,?\d)"  # 12,50 €
    r"|\d+(?:\.\d+)?|\.\d+)"
    rf"{_EXPONENT}{_FACTOR}"
)
_FRACTION = re.compile(
    rf"(?<![\w/])(?<!\d[.,])(?P<sign>(?<![\w)])[-+])?[{_MONEY}]?(?:(?P<whole>\d{{1,3}}) )?"
    rf"(?P<over>\d{{1,9}})/(?P<under>0*[1-9]\d{{0,8}})(?![\d/]|[.,]\d){_FACTOR}"
)
_AROUND = ' \t\r\n*_`"“”«»!=:#'
# A whole answer: a number, with a currency before it, or a currency or one word, a unit, after it.
_WHOLE = re.compile(
    rf"(?:[A-Z]{{3}}\s?)?(?P<sign>[-+])?[{_MONEY}]?\s?(?P<inner>[-+])?"
    rf"(?P<digits>\d{{1,3}}(?:[ \u202f]\d{{3}})+(?:[.,]\d+)?|\d+,\d+){_EXPONENT}{_FACTOR}\.?"
    rf"(?:\s?[{_MONEY}]|\s[^\W\d]{{1,15}}[²³]?)?"
)
_CODE = rf"(?:[{_MONEY}]|{_CURRENCY}\s?)"
_LOSS = re.compile(rf"{_CODE}?\({_CODE}?(?P<amount>[\d.,'_ \u202f]+)(?:\s?{_CODE})?\)(?:\s?{_CODE})?")
_ENGLISH_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")


@dataclass(frozen=True, slots=True)
class ReadNumber:
    """value: as written, so 50 for “50 %”, and exact. power: the power of ten by which what stands after it multiplies
    it: −2 for a percentage, 6 for a million; 0 where nothing does."""

    value: Decimal
    power: int = 0

    @property
    def worth(self) -> Decimal:
        """What it comes to: 0.5 for “50 %”."""
        return self.value.scaleb(self.power, EXACT)

    def __str__(self) -> str:
        after = {0: "", -2: "%", -3: "‰"}.get(self.power, f"e{self.power}")
        return f"{self.value:{'.0f' if is_whole(self.value) and abs(self.value) < 10**40 else '.12g'}}{after}"


def read_numbers(text: str) -> list[ReadNumber]:
    """Every number of a text, in order."""
    text = _plain(text)
    fractions = {match.start(): match for match in _FRACTION.finditer(text)}
    numbers, end = [], 0
    for match in _NUMBER.finditer(text):
        if match.start() < end:
            continue  # a part of a fraction that was read already
        if (fraction := fractions.get(match.start())) is not None:
            part = EXACT.divide(Decimal(fraction["over"]), Decimal(fraction["under"]))
            value = Decimal(fraction["whole"] or 0) + part
            numbers.append(ReadNumber(value.copy_negate() if fraction["sign"] == "-" else value, _power(fraction)))
            end = fraction.end()
        else:
            numbers.append(_read(match))
    return numbers


def read_whole(text: str) -> ReadNumber | None:
    """The number that is the whole text but for marks, currency and unit, in the forms that a sentence makes ambiguous:
    with plain spaces between thousands, a comma before decimals, or a loss in brackets. None for any other text."""
    text = _plain(text).strip(_AROUND).rstrip(".").rstrip(_AROUND)
    if (loss := _LOSS.fullmatch(text)) is not None and re.search(_CODE, text):
        amounts = read_numbers(loss["amount"])
        return ReadNumber(amounts[0].value.copy_negate()) if len(amounts) == 1 else None
    match = _WHOLE.fullmatch(text)
    return None if match is None or _ENGLISH_THOUSANDS.fullmatch(match["digits"]) else _read(match)


def _plain(text: str) -> str:
    for pattern, shown in _LATEX:
        text = pattern.sub(shown, text)
    if not text.isascii():
        text = re.sub(r"\d", lambda found: str(int(found[0])), _UNSEEN.sub("", text))
        text = _ONE_SIGN_FRACTIONS.sub(_spelled_out, text).replace("−", "-").translate(_SIGNS)
        text = with_minus(_AFTER_LETTERS.sub(" ", text))
    for pattern, shown in _SPELLED:
        text = pattern.sub(shown, text)
    return _NO_NUMBERS.sub(" ", _OF_ANOTHER_BASE.sub(lambda found: str(int(found[0], 0)), text))


def _spelled_out(match: re.Match[str]) -> str:
    """`½` as 1/2, with a space between it and the number before it."""
    fraction = unicodedata.normalize("NFKC", match["sign"]).replace("\u2044", "/")
    return fraction if match["after"] is None else f" {fraction}"


def _read(match: re.Match[str]) -> ReadNumber:
    sign = "-" if "-" in (match["sign"], match["inner"]) else ""
    digits = _with_point(match["digits"])
    if (to := match["to"] or match["raised_to"]) is not None:
        value = EXACT.power(Decimal(digits), Decimal(to.translate(_RAISED)))
        return ReadNumber(value.copy_negate() if sign else value, _power(match))
    exponent = (match["e"] or match["power"] or match["raised"] or "0").translate(_RAISED)
    return ReadNumber(Decimal(f"{sign}{digits}e{exponent}"), _power(match))


def _power(match: re.Match[str]) -> int:
    if match["share"] is not None:
        return _SHARES[match["share"].lower()]
    if match["letter"] is not None:
        return _LETTERS[match["letter"]]
    if match["tens"] is not None:
        return sum(_SIGNS_OF_TENS[sign] for sign in match["tens"])
    words = (match["words"] or "").lower().split()
    return sum(_WORDS[word if word in _WORDS else word.removesuffix("s")] for word in words)


def _with_point(digits: str) -> str:
    """Digits as Python writes them: without marks between thousands, a point before decimals."""
    digits = re.sub(r"[ \u202f'_]", "", digits)
    if digits.count(".") > 1:
        digits = digits.replace(".", "")
    last = max(digits.rfind(","), digits.rfind("."))
    if last < 0:
        return digits
    grouped = digits[last] == "," and (_ENGLISH_THOUSANDS.fullmatch(digits) or digits.count(",") > 1)
    whole, decimals = (digits, "") if grouped else (digits[:last], digits[last + 1 :])
    return f"{re.sub(r'[.,]', '', whole)}.{decimals}"


class Numeric(Correctness):
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

    take: Literal["last", "first"] = "last"
    expected_take: Literal["last", "first"] = "last"
    absolute: Amount | None = None
    relative: Amount | None = None

    def score(self, row: EvalRow, output: Output) -> Score:
        expected = self._expected(row)
        got = _number(output.text, self.take)
        if got is None:
            return Score(False, f"holds no number; expected {expected[0]}")
        hit = next((wanted for wanted in expected if self._same(got, wanted)), None)
        return Score(hit is not None, f"reads {got}; expected {hit or expected[0]}")

    def _expected(self, row: EvalRow) -> list[ReadNumber]:
        if (given := row.expectations.get("expected_number")) is not None:
            number = None
            if isinstance(given, str):
                number = _number(given, self.expected_take)
            elif isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
                number = ReadNumber(Decimal(repr(given)))
            if number is None:
                raise MissingExpectation(f"row {row.id}: expected_number is no number: {given!r}")
            return [number]
        numbers = [number for answer in expected_answers(row) if (number := _number(answer, self.expected_take))]
        if not numbers:
            raise MissingExpectation(f"row {row.id}: no expected answer holds a number")
        return numbers

    def _same(self, got: ReadNumber, expected: ReadNumber) -> bool:
        as_written = got.power == expected.power or 0 in (got.power, expected.power)
        if as_written and self._close(got.value, expected.value):
            return True
        return self._close(got.worth, expected.worth, expected.power)

    def _close(self, got: Decimal, expected: Decimal, power: int = 0) -> bool:
        """power: of ten, of the unit in which a tolerance is meant: that of the expected number as it is written."""
        if got == expected:
            return True
        relative = self.relative
        if relative is None and self.absolute is None and not (is_whole(got) and is_whole(expected)):
            relative = _RELATIVE
        absolute = Decimal(repr(self.absolute or 0.0)).scaleb(power, EXACT)
        allowed = max(absolute, EXACT.multiply(Decimal(repr(relative or 0.0)), EXACT.abs(expected)))
        return EXACT.abs(EXACT.subtract(got, expected)) <= allowed


def _number(text: str, take: str) -> ReadNumber | None:
    """The number that is the whole text, else the last or first in it."""
    if (whole := read_whole(text)) is not None:
        return whole
    numbers = read_numbers(text)
    return numbers[-1 if take == "last" else 0] if numbers else None


def is_whole(number: Decimal) -> bool:
    """Whether a number has no decimals."""
    return number == number.to_integral_value()


TYPES: dict[str, Callable[..., Scorer]] = {"numeric": Numeric}
