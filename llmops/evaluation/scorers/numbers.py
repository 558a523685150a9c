"""Numbers in text: which there are, and what they say.

| written | read as |
| --- | --- |
| `1,234.5`, `1 234.5` and `1 234,5` with a fixed or thin space, `1.234,5`, `1'234.5`, `12,34,567` | the number |
| `9{,}500`, `9\\,500`, `3 \\times 10^{8}`, `50\\%` | as LaTeX shows it |
| `-3`, `−3`, `$5`, `5 €`, `₹1,23,456`, `USD 5` | with its sign, without its currency |
| `2e-3`, `3 × 10^8`, `2·10⁻³`, `10^6` | the number |
| `50%`, `50 percent` | 50, and that it is a percentage |
| `3/4`, `½`, `2½`, `1 3/4`, `\\frac{3}{4}` | the fraction; but each number of `3/4/2026` and of `5/0` |
| `$(1,234)`, `($1,234)` | -1234 where it is the whole answer, as in accounts; 1234 in a sentence |
| `१२३`, `１，２３４` | 123 and 1234: the decimal digits of every script |
| `1,234` and `1.234` | 1234 and 1.234: English, where both are possible |
| `1,2` | 1 and 2 in a sentence; 1.2 where it is the whole answer |
| `12 345` | 12 and 345 in a sentence (“page 12 345”); 12345 where it is the whole answer |
| `12 000`, `1 234,50 €` | the number, in a sentence too: none of its own begins with 0, and money has decimals |

Not read: words (“five”, “million”), numerals that are no decimal digits (`Ⅳ`, `千`), digits inside words (`H2O`).
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from decimal import Context, Decimal

from llmops.evaluation.scorers.normalisation import with_minus

_SIGNS = str.maketrans({
    "﹣": "-", "－": "-", "＋": "+", "％": "%", "٪": "%", "．": ".", "，": ",", "٫": ".", "٬": "\u202f",
    "’": "'", "⁄": "/", "∕": "/", "\u2009": "\u202f", "\u2007": "\u202f", "\u00a0": "\u202f", "＄": "$", "￥": "¥",
})  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_LATEX = (
    (re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{([^{}]{0,100})\}"), r" \1 "),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"(?<=\d)(?:\\[,;:! ]|~)(?=\d)"), "\u202f"),
    (re.compile(r"\\([%$€£])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "×"),
    (re.compile(r"(?<=\d)\s?\\[dt]?frac(?=\{\d)"), r" \\frac"),
    (re.compile(r"\\[dt]?frac\{(\d{1,9})\}\{(\d{1,9})\}"), r"\1/\2"),
)
_ONE_SIGN_FRACTIONS = re.compile(r"(?P<after>(?<=\d)\s?)?(?P<sign>[¼-¾⅐-⅞↉])")
_MONEY = "$€£¥₹₽₩₺₴₪₫฿₦"
_POWER = (
    r"(?:[eE](?P<e>[-+]?\d{1,4})(?!\w)"
    r"|\s?[×x*·]\s?10(?:(?:\^|\*\*)\{?(?P<power>[-+]?\d{1,4})\}?|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4})))?"
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
    rf"{_POWER}(?P<percent>\s?(?:%|per ?cent\b))?"
)
_POWER_OF_TEN = re.compile(
    r"(?<![\w.])(?P<sign>(?<![\w)])[-+])?10(?:(?:\^|\*\*)\{?(?P<power>[-+]?\d{1,4})\}?|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4}))"
)
_FRACTION = re.compile(
    rf"(?<![\w/])(?<!\d[.,])(?P<sign>(?<![\w)])[-+])?[{_MONEY}]?(?:(?P<whole>\d{{1,3}}) )?"
    r"(?P<over>\d{1,9})/(?P<under>0*[1-9]\d{0,8})(?![\d/]|[.,]\d)(?P<percent>\s?(?:%|per ?cent\b))?"
)
_DIVISION = Context(prec=60)
_AROUND = ' \t\r\n*_`"“”«»!=:#'
# A whole answer: a number, with a currency before it, or a currency or one word, a unit, after it.
_WHOLE = re.compile(
    rf"(?:[A-Z]{{3}}\s?)?(?P<sign>[-+])?[{_MONEY}]?\s?(?P<inner>[-+])?"
    r"(?P<digits>\d{1,3}(?:[ \u202f]\d{3})+(?:[.,]\d+)?|\d+,\d+)"
    rf"(?:\s?(?P<percent>%|per ?cent)|\s?[{_MONEY}]|\s[^\W\d]{{1,15}}[²³]?)?"
)
_LOSS = re.compile(rf"(?:\([{_MONEY}]|[{_MONEY}]\()(?P<amount>[\d.,'_ \u202f]+)\)")
_ENGLISH_THOUSANDS = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+")


@dataclass(frozen=True, slots=True)
class ReadNumber:
    """value: as written, so 50 for “50 %”, and exact. percent: whether it was written as a percentage."""

    value: Decimal
    percent: bool = False

    def __str__(self) -> str:
        whole = self.value == self.value.to_integral_value() and abs(self.value) < 10**40
        return (f"{self.value:.0f}" if whole else f"{self.value:.12g}") + ("%" if self.percent else "")


def read_numbers(text: str) -> list[ReadNumber]:
    """Every number of a text, in order."""
    text = _plain(text)
    powers = {found.start(): found for found in _POWER_OF_TEN.finditer(text)}
    fractions = {found.start(): found for found in _FRACTION.finditer(text)}
    numbers, end = [], 0
    for found in _NUMBER.finditer(text):
        if found.start() < end:
            continue  # the exponent of a power of ten, or a part of a fraction, that was read already
        power, fraction = powers.get(found.start()), fractions.get(found.start())
        if fraction is not None:
            numbers.append(_read_fraction(fraction))
            end = fraction.end()
        elif power is not None and power.end() > found.end():
            exponent = power["power"] or power["raised"].translate(_RAISED)
            numbers.append(ReadNumber(Decimal(f"{power['sign'] or ''}1e{exponent}")))
            end = power.end()
        else:
            numbers.append(_read(found))
    return numbers


def read_whole(text: str) -> ReadNumber | None:
    """The number that is the whole text but for marks, currency and unit, in the forms that a sentence makes ambiguous:
    with plain spaces between thousands, a comma before decimals, or a loss in brackets. None for any other text."""
    text = _plain(text).strip(_AROUND).rstrip(".").rstrip(_AROUND)
    if (loss := _LOSS.fullmatch(text)) is not None and len(amounts := read_numbers(loss["amount"])) == 1:
        return ReadNumber(amounts[0].value.copy_negate())
    found = _WHOLE.fullmatch(text)
    return None if found is None or _ENGLISH_THOUSANDS.fullmatch(found["digits"]) else _read(found)


def _plain(text: str) -> str:
    for pattern, shown in _LATEX:
        text = pattern.sub(shown, text)
    if not text.isascii():
        text = _ONE_SIGN_FRACTIONS.sub(_spelled_out, re.sub(r"\d", lambda found: str(int(found[0])), text))
    return with_minus(text).translate(_SIGNS)


def _spelled_out(found: re.Match[str]) -> str:
    """`½` as 1/2, with a space between it and the number before it."""
    fraction = unicodedata.normalize("NFKC", found["sign"]).replace("\u2044", "/")
    return fraction if found["after"] is None else f" {fraction}"


def _read_fraction(found: re.Match[str]) -> ReadNumber:
    value = Decimal(found["whole"] or 0) + _DIVISION.divide(Decimal(found["over"]), Decimal(found["under"]))
    return ReadNumber(value.copy_negate() if found["sign"] == "-" else value, found["percent"] is not None)


def _read(found: re.Match[str]) -> ReadNumber:
    groups = found.groupdict()
    raised = groups.get("raised")
    exponent = groups.get("e") or groups.get("power") or (raised.translate(_RAISED) if raised else "0")
    sign = "-" if "-" in (found["sign"], found["inner"]) else ""
    return ReadNumber(Decimal(f"{sign}{_with_point(found['digits'])}e{exponent}"), found["percent"] is not None)


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
