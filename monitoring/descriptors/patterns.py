"""What a text contains, by rule: personal data, links, refusals, JSON. Standard library only.

Every repeat in the patterns is bounded, so that hostile text costs linear time. Those of personal data are shared with
the gateway's guards, those of refusals with the scorers: `llmops.text_patterns`.
"""

from __future__ import annotations

import re

from llmops import text_patterns
from llmops.evaluation.scorers.json_scorers import read_json

PERSONAL_SORTS = ("email", "phone", "card", "iban", "ssn", "ip")

LINK_SOURCE = r"(?<!\w)(?:https?|ftp)://[^\s<>\"']{2}|(?<![\w@./-])www\.[a-z0-9-]{1,63}\.[a-z]{2}"
"""An address, letters of either case."""

_LINK = re.compile(LINK_SOURCE, re.IGNORECASE)
_KINDS_OF_SORT = {sort: (sort,) for sort in PERSONAL_SORTS} | {"ip": ("ipv4", "ipv6")}


def has_personal(sort: str, text: str) -> bool:
    """Whether the text holds personal data of one of PERSONAL_SORTS.

    email; phone: an international number with `+`, a North American one, or a national one with a leading 0 and
    separators; card: of a payment, passing the Luhn check; iban: of a listed country, with its checksum; ssn: of the
    United States, dashed, of a range that is issued; ip: IPv4, or IPv6 of three groups or more (a four-part version
    number looks the same).
    """
    return any(text_patterns.holds_personal(kind, text) for kind in _KINDS_OF_SORT[sort])


def sources_of(sort: str) -> list[str]:
    """The patterns behind a sort of personal data: a change of them changes its values."""
    return [text_patterns.PERSONAL_SOURCES[kind] for kind in _KINDS_OF_SORT[sort]]


def has_link(text: str) -> bool:
    """A web or FTP address, also inside brackets or Markdown, which splitting at white space would miss."""
    # Without one of these no pattern can match, and looking for them is fifty times as fast.
    if "://" not in text and "www." not in text.casefold():
        return False
    return _LINK.search(text) is not None


def is_refusal(text: str) -> bool:
    """Declines to answer, by the phrases that the scorer `refusal` reads too."""
    return text_patterns.refusal_phrase(text) is not None


def is_json(text: str) -> bool:
    """The whole text is one JSON object or array. A bare number or word is an answer, not a structured reply."""
    if text.lstrip()[:1] not in ("{", "["):
        return False
    return read_json(text)[1] is None
