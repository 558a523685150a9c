"""Records for the tests of the production log."""

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from llmops.production_log import LogRecord
from tests.moments import HOUR, START

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FIELDS = {field.name for field in dataclasses.fields(LogRecord)}
RECORDS = st.builds(
    LogRecord,
    request_id=st.text(min_size=1),
    at=st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    status=st.integers(100, 599),
    outcome=st.sampled_from(["ok", "error", "cancelled"]),
    input=st.text(),
    output=st.text(),
    release=st.none() | st.text(),
    prompt=st.none() | st.text(),
    model=st.none() | st.text(),
    tokens_in=st.none() | st.integers(0, 2**31),
    tokens_out=st.none() | st.integers(0, 2**31),
    latency_ms=st.floats(0, 1e9),
    first_token_ms=st.none() | st.floats(0, 1e9),
    details=st.dictionaries(st.text().filter(lambda name: name not in FIELDS), JSON, max_size=3),
    key=st.uuids().map(lambda key: key.hex),
    route=st.none() | st.text(min_size=1, max_size=32),
    caller=st.none() | st.text(min_size=1, max_size=255),
    user=st.none() | st.text(min_size=1, max_size=512),
    text_deleted_at=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)


def record(number: int = 0, **fields: Any) -> LogRecord:
    values: dict[str, Any] = {"request_id": f"r{number}", "at": START + number * HOUR, "status": 200, "outcome": "ok"}
    return LogRecord(**{**values, "release": "assistant@1", **fields})


def ids(records: Iterable[LogRecord]) -> list[str]:
    return [item.request_id for item in records]
