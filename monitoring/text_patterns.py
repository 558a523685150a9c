"""What a text contains, by rule: personal data, links, refusals, JSON. Standard library only.

Patterns are bounded on both sides, so that a part of a longer word or number never counts, and every repeat in them
is bounded, so that hostile text costs linear time. Numbers that carry a checksum (cards, IBANs) must pass it. Names,
addresses and other personal data that need a model to see are out of scope.
"""

from __future__ import annotations

import ipaddress
import json
import re

PATTERN_SOURCES: dict[str, str] = {
    "email": r"(?<![\w.+-])[a-z0-9][a-z0-9._%+-]{0,63}@(?:[a-z0-9-]{1,63}\.){1,8}[a-z]{2,24}(?![\w-])",
    "phone": (
        r"(?<![\w+])\+[1-9]\d{0,2}(?:[ .()/-]{0,2}\d){6,13}(?!\w)"  # +49 (0)171 1234567
        r"|(?<![\w.-])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-]|\.\d)"  # (212) 555-0143
        r"|(?<![\w.,-])0\d{2,4}[ /-]\d{3,4}[ -]?\d{3,5}(?![\w-])"  # 020 7946 0958
    ),
    "card": (r"(?<![\w-])(?:\d{4}([ -])\d{4}\1\d{4}\1\d{4}|\d{4}([ -])\d{6}\2\d{5}|\d{13,19})(?![\w-])"),
    "iban": r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)",
    "ssn": r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])",
    "ipv4": r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w]|\.\d)",
    "ipv6": r"(?<![\w:.])[0-9a-f:]{7,39}(?![\w:])",
    "link": r"(?<!\w)(?:https?|ftp)://[^\s<>\"']{2}|(?<![\w@./-])www\.[a-z0-9-]{1,63}\.[a-z]{2}",
    "word": r"\w+(?:['\u2019-]\w+)*",
    "refusal": (
        r"\bi(?:'m| am)? (?:really |simply )?(?:can't|cannot|can not|won't|will not|unable to|not able to"
        r"|not allowed to|not permitted to|not comfortable) (?:\w{1,12} ){0,2}?"
        r"(?:help(?:ing)? (?:you|with)|help(?=[.,;!]|$)|assist|comply|fulfill?|provid(?:e|ing)|answer(?:ing)?|discuss"
        r"|engage|creat(?:e|ing)|generat(?:e|ing)|writ(?:e|ing)|shar(?:e|ing)|support|do (?:that|this)|give)\b"
        r"|\b(?:i must|i have to|i'll have to) (?:respectfully )?decline\b"
        r"|\bas an ai(?: language model| assistant)?,? i (?:can't|cannot|don't|do not|am not|am unable)\b"
        r"|\b(?:goes against|violates|is against) (?:my|our) (?:guidelines|polic(?:y|ies)|programming|principles)\b"
        r"|\bich (?:kann|darf|werde) (?:\w{1,12} ){0,3}?nicht (?:\w{1,12} ){0,2}?"
        r"(?:helfen|beantworten|antworten|bereitstellen|unterstützen)\b"
        r"|\bje ne (?:peux|suis) pas (?:\w{1,12} ){0,3}?(?:aider|répondre|fournir|mesure de)\b"
        r"|\bno (?:puedo|podemos) (?:ayudar(?:te|le)?|responder|proporcionar|cumplir)\b"
    ),
}

_CASED = {"iban"}
_compiled = {
    name: re.compile(source, re.NOFLAG if name in _CASED else re.IGNORECASE) for name, source in PATTERN_SOURCES.items()
}

# A refusal stands at the start of an answer; further on, such words are mostly quoted or part of a story.
REFUSAL_REACH = 300

# Length of an IBAN by country (SWIFT IBAN registry): without it a number runs on into the capitals after it.
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20,
    "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26, "IT": 27,
    "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24,
    "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29,
}  # fmt: skip


def has_email(text: str) -> bool:
    return _compiled["email"].search(text) is not None


def has_phone(text: str) -> bool:
    """An international number with `+`, a North American one, or a national one with a leading 0 and separators."""
    return _compiled["phone"].search(text) is not None


def has_card(text: str) -> bool:
    """A payment card number: 13 to 19 digits that begin as cards do and pass the Luhn check (ISO/IEC 7812)."""
    return any(_is_card(re.sub(r"[ -]", "", found[0])) for found in _compiled["card"].finditer(text))


def has_iban(text: str) -> bool:
    """An IBAN of a listed country with its length, whose checksum holds (mod 97 is 1; ISO 13616)."""
    return any(_is_iban(found[0].replace(" ", "")) for found in _compiled["iban"].finditer(text))


def has_ssn(text: str) -> bool:
    """A United States social security number in its dashed form, of a range that is issued."""
    return _compiled["ssn"].search(text) is not None


def has_ip(text: str) -> bool:
    """An IPv4 address, or an IPv6 address of three groups or more. A four-part version number looks the same."""
    if _compiled["ipv4"].search(text):
        return True
    return any(_is_ipv6(found[0]) for found in _compiled["ipv6"].finditer(text))


def has_link(text: str) -> bool:
    """A web or FTP address, also inside brackets or Markdown, which splitting at white space would miss."""
    return _compiled["link"].search(text) is not None


def is_refusal(text: str) -> bool:
    """Declines to answer, by the phrases assistants use (English; the commonest German, French and Spanish ones)."""
    start = text[:REFUSAL_REACH].replace("\u2019", "'")
    return _compiled["refusal"].search(" ".join(start.split())) is not None


def is_json(text: str) -> bool:
    """The whole text is one JSON object or array. A bare number or word is an answer, not a structured reply."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def count_words(text: str) -> int:
    """Words in any script that puts spaces between them; `don't` and `well-known` are one word each."""
    return sum(1 for _ in _compiled["word"].finditer(text))


def _is_card(digits: str) -> bool:
    if digits[0] not in "23456" or len(set(digits)) == 1:
        return False
    doubled = (int(digit) * 2 for digit in digits[-2::-2])
    total = sum(map(int, digits[-1::-2])) + sum(value - 9 if value > 9 else value for value in doubled)
    return total % 10 == 0


def _is_iban(candidate: str) -> bool:
    length = IBAN_LENGTHS.get(candidate[:2])
    if length is None or len(candidate) < length:
        return False
    number = candidate[4:length] + candidate[:4]
    return int("".join(str(int(sign, 36)) for sign in number)) % 97 == 1


def _is_ipv6(candidate: str) -> bool:
    if len([group for group in candidate.split(":") if group]) < 3:
        return False
    try:
        ipaddress.IPv6Address(candidate)
    except ValueError:
        return False
    return True
