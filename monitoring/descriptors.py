"""The descriptors: what is computed from each logged request, and how to read it.

Names start with the side they describe: `input.…` from the user's message, `output.…` from the answer; the rest are
the log's own columns. A value is None where it makes no sense: an answer that was refused by the gateway, failed or
was cut off by its client has no `output.…`, latency or tokens, so that a burst of errors shows as `error` and not as
thirty shifted texts.

The texts are described by Evidently's descriptors. Where its built-in one is wrong for chat, an own function takes its
place in a `CustomColumnDescriptor`: `WordCount` counts ASCII words only (a Russian text has none), `ContainsLink`
raises on `http://[` and misses links in brackets, `IsValidJSON` raises on None and on deep nesting, `Sentiment`
downloads its lexicon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, Literal

from llmops.hashing import content_hash
from llmops.production_log import LogRecord
from monitoring import text_patterns as patterns
from monitoring.evidently_import import evidently
from monitoring.language import language_of

Kind = Literal["numeric", "flag", "label"]
Side = Literal["input", "output", "service"]
Value = float | bool | str | None

SENTIMENT_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Descriptor:
    """One number, flag or label of a request.

    side: where a change comes from: what users ask, what the model answers, or how the service runs.
    harmful: a flag whose rise is bad; it is tested for a rise only. unit: shown after its value, may be empty.
    """

    name: str
    kind: Kind
    side: Side
    harmful: bool = False
    unit: str = ""


def _text_descriptors(side: Side) -> list[Descriptor]:
    numbers = {"length": "characters", "words": "words", "sentences": "sentences", "non_letter": "%", "sentiment": ""}
    personal = ("email", "phone", "card", "iban", "ssn", "ip")
    return [
        *(Descriptor(f"{side}.{name}", "numeric", side, unit=unit) for name, unit in numbers.items()),
        Descriptor(f"{side}.link", "flag", side),
        Descriptor(f"{side}.language", "label", side),
        *(Descriptor(f"{side}.pii_{name}", "flag", side, harmful=True) for name in personal),
    ]


# tokens_in counts the template as well as the question, so a new release moves it: service, not input.
DESCRIPTORS: dict[str, Descriptor] = {
    descriptor.name: descriptor
    for descriptor in [
        *_text_descriptors("input"),
        *_text_descriptors("output"),
        Descriptor("output.refusal", "flag", "output", harmful=True),
        Descriptor("output.valid_json", "flag", "output"),
        Descriptor("output.empty", "flag", "output", harmful=True),
        Descriptor("tokens_out", "numeric", "output", unit="tokens"),
        Descriptor("tokens_in", "numeric", "service", unit="tokens"),
        Descriptor("latency_ms", "numeric", "service", unit="ms"),
        Descriptor("error", "flag", "service", harmful=True),
    ]
}

# Raised by hand when a function behind a name, or the library it calls, changes what it returns.
_REVISION = 1

DESCRIPTOR_VERSION = content_hash(
    {
        "revision": _REVISION,
        "descriptors": [[descriptor.name, descriptor.kind] for descriptor in DESCRIPTORS.values()],
        "patterns": patterns.PATTERN_SOURCES,
    }
)[:16]


def describe(records: Sequence[LogRecord]) -> list[dict[str, Value]]:
    """The values of every descriptor for each record, in the order of `records`. Imports Evidently."""
    answered = [record.outcome == "ok" and record.status < 400 for record in records]
    inputs = describe_texts([record.input for record in records], "input")
    answers = [record.output for record, whole in zip(records, answered, strict=True) if whole]
    outputs = iter(describe_texts(answers, "output"))
    rows: list[dict[str, Value]] = []
    for record, asked, whole in zip(records, inputs, answered, strict=True):
        values: dict[str, Value] = dict.fromkeys(DESCRIPTORS)
        values.update(asked)
        values["error"] = record.outcome == "error" or (record.status >= 400 and record.outcome != "cancelled")
        if whole:
            values.update(next(outputs))
            values["output.empty"] = not record.output.strip()
            values["latency_ms"] = float(record.latency_ms)
            values["tokens_in"], values["tokens_out"] = float(record.tokens_in), float(record.tokens_out)
        rows.append(values)
    return rows


def describe_texts(texts: Sequence[str], side: Literal["input", "output"]) -> list[dict[str, Value]]:
    """The descriptors of texts alone, one mapping for each text. Imports Evidently and pandas."""
    if not texts:
        return []
    import pandas as pd

    library = evidently()
    # Evidently's own descriptors divide by the length: an empty text must reach them as a missing one.
    frame = pd.DataFrame({"text": pd.Series([text or None for text in texts], dtype=object)})
    computed = library.Dataset.from_pandas(
        frame,
        data_definition=library.DataDefinition(text_columns=["text"]),
        descriptors=_evidently_descriptors(side),
    ).as_dataframe()
    names = [name for name in computed.columns if name != "text"]
    columns = {name: [_plain(value, DESCRIPTORS[name].kind) for value in computed[name]] for name in names}
    return [{name: columns[name][row] for name in names} for row in range(len(texts))]


def _evidently_descriptors(side: Literal["input", "output"]) -> list[Any]:
    library = evidently()
    own: dict[str, Callable[[str], Value]] = {
        "words": patterns.count_words,
        "sentiment": sentiment,
        "link": patterns.has_link,
        "language": language_of,
        "pii_email": patterns.has_email,
        "pii_phone": patterns.has_phone,
        "pii_card": patterns.has_card,
        "pii_iban": patterns.has_iban,
        "pii_ssn": patterns.has_ssn,
        "pii_ip": patterns.has_ip,
    }
    if side == "output":
        own |= {"refusal": patterns.is_refusal, "valid_json": patterns.is_json}
    return [
        library.TextLength("text", alias=f"{side}.length"),
        library.SentenceCount("text", alias=f"{side}.sentences"),
        library.NonLetterCharacterPercentage("text", alias=f"{side}.non_letter"),
        *(_custom(f"{side}.{name}", function) for name, function in own.items()),
    ]


def _custom(name: str, function: Callable[[str], Value]) -> Any:
    library = evidently()
    numeric = DESCRIPTORS[name].kind == "numeric"
    column_type = library.ColumnType.Numerical if numeric else library.ColumnType.Categorical

    @wraps(function)
    def over_column(column: Any) -> Any:
        return library.DatasetColumn(column_type, column.data.map(lambda text: function(text or "")))

    return library.CustomColumnDescriptor("text", over_column, alias=name)


def sentiment(text: str) -> float:
    """VADER's compound score of the first 2,000 characters, from -1 to 1 (Hutto & Gilbert 2014).

    Its lexicon is English: a text in another language scores near 0.
    """
    return float(_analyser().polarity_scores(text[:SENTIMENT_CHARACTERS])["compound"])


@cache
def _analyser() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # reads its lexicon from the package

    return SentimentIntensityAnalyzer()


def _plain(value: Any, kind: Kind) -> Value:
    if kind == "flag":
        return bool(value)
    return str(value) if kind == "label" else float(value)
