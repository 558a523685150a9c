"""What a text contains, by rule: personal data, links, refusals, JSON. Standard library only.

Every repeat in the patterns is bounded, so that hostile text costs linear time. Those of personal data are shared with
the gateway's guards: `llmops.text_patterns`.
"""

from __future__ import annotations

import json
import re

from llmops import text_patterns

PATTERN_SOURCES: dict[str, str] = {
    **text_patterns.PERSONAL_SOURCES,
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
        rf"|{'|'.join(text_patterns.REFUSAL_OTHER_LANGUAGES)}"
    ),
}

_compiled = {name: re.compile(PATTERN_SOURCES[name], re.IGNORECASE) for name in ("link", "word", "refusal")}

REFUSAL_REACH = text_patterns.REFUSAL_REACH


def has_email(text: str) -> bool:
    return text_patterns.holds_personal("email", text)


def has_phone(text: str) -> bool:
    """An international number with `+`, a North American one, or a national one with a leading 0 and separators."""
    return text_patterns.holds_personal("phone", text)


def has_card(text: str) -> bool:
    """A payment card number: 13 to 19 digits that begin as cards do and pass the Luhn check (ISO/IEC 7812)."""
    return text_patterns.holds_personal("card", text)


def has_iban(text: str) -> bool:
    """An IBAN of a listed country with its length, whose checksum holds (mod 97 is 1; ISO 13616)."""
    return text_patterns.holds_personal("iban", text)


def has_ssn(text: str) -> bool:
    """A United States social security number in its dashed form, of a range that is issued."""
    return text_patterns.holds_personal("ssn", text)


def has_ip(text: str) -> bool:
    """An IPv4 address, or an IPv6 address of three groups or more. A four-part version number looks the same."""
    return text_patterns.holds_personal("ipv4", text) or text_patterns.holds_personal("ipv6", text)


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
