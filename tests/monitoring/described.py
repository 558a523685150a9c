"""A few cheap descriptors, log records and described rows for tests of what is kept beside the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from llmops.production_log import LogRecord
from monitoring.descriptors.descriptor_set import DescriptorSet
from monitoring.descriptors.model import Declared, Descriptor, Kind, Of, Side
from monitoring.store.rows import ROW_DIMENSIONS, DescribedRows, objects
from tests.moments import START

APP = "assistant"
STEP = timedelta(seconds=40)

Compute = Callable[[Sequence[Any]], Sequence[Any]]


def declare(name: str, kind: Kind, of: Of, compute: Compute, version: str = "1", side: Side = "input") -> Declared:
    return Declared(Descriptor(name, kind, side, version=version), of, compute)


def cheap_set(*, output_version: str = "1", calls: list[int] | None = None) -> DescriptorSet:
    """Lengths, a flag, a label and the latency. calls: gets the number of answers each time they are described."""

    def of_answers(texts: Sequence[Any]) -> Sequence[Any]:
        if calls is not None:
            calls.append(len(texts))
        return [len(text) for text in texts]

    return DescriptorSet(
        [
            declare("input.length", "numeric", "input", lambda texts: [len(text) for text in texts]),
            declare("input.language", "label", "input", lambda texts: [text[:2] for text in texts]),
            declare("output.length", "numeric", "output", of_answers, output_version),
            declare("output.refusal", "flag", "output", lambda texts: ["sorry" in text for text in texts]),
            declare("latency_ms", "numeric", "record", lambda records: [each.latency_ms for each in records]),
        ]
    )


def record(number: int, **given: Any) -> LogRecord:
    """The log's record number so, STEP after the one before."""
    values: dict[str, Any] = {
        "request_id": f"r{number}",
        "key": f"{number:032x}",
        "at": START + number * STEP,
        "status": 200,
        "outcome": "ok",
        "input": ("en ", "de ", "fr ")[number % 3] + "x" * (number % 7),
        "output": "sorry" if number % 5 == 0 else "y" * (number % 11),
        "release": f"{APP}@{1 + number % 2}",
        "route": "chat",
        "latency_ms": 10.0 * (number % 13) + 0.25,
        "user": f"user{number % 4}",
        "details": {"arm": "champion"},
    }
    return LogRecord(**{**values, **given})


def records(numbers: Iterable[int], **given: Any) -> list[LogRecord]:
    return [record(number, **given) for number in numbers]


def described_rows(
    at: Sequence[float], numbers: Sequence[float | None], labels: Sequence[str | None], release: str = f"{APP}@1"
) -> DescribedRows:
    """Rows with a number, a flag (the number is above 1) and a label."""
    column = np.array([np.nan if value is None else value for value in numbers], dtype=np.float32)
    flags = np.where(np.isnan(column), np.nan, column > 1).astype(np.float32)
    dimensions = {name: objects([None] * len(at)) for name in ROW_DIMENSIONS}
    dimensions["release"] = objects([release] * len(at))
    keys = [f"k{place}" for place in range(len(at))]
    columns = {"number": column, "flag": flags, "label": objects(labels)}
    return DescribedRows(keys, keys, np.array(at, dtype=np.float64), dimensions, columns)


def described_set() -> DescriptorSet:
    """The descriptors of `described_rows`."""
    kinds: dict[str, Kind] = {"number": "numeric", "flag": "flag", "label": "label"}
    return DescriptorSet([declare(name, kind, "record", list) for name, kind in kinds.items()])
