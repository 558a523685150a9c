"""The log's own columns as descriptors."""

from collections.abc import Callable, Mapping
from typing import Any

from llmops.production_log import LogRecord
from monitoring.descriptors.model import Computation, DescriptorKind, Kind, Of, Side, each, is_answered


def is_error(record: LogRecord) -> bool:
    """The gateway or the engine failed, or refused the request; a client that went away is no error."""
    return record.outcome == "error" or (record.status >= 400 and record.outcome != "cancelled")


def is_empty(record: LogRecord) -> bool:
    """A whole answer that says nothing: no visible sign, no tool call, no refusal."""
    return not (record.output.strip() or record.details.get("tool_calls") or record.details.get("refusal"))


def _of_answered(read: Callable[[LogRecord], float | None]) -> Callable[[LogRecord], float | None]:
    """None for a request without a whole answer; its text need not be kept any more."""
    return lambda record: read(record) if is_answered(record) else None


def _kind(
    value: Kind,
    read: Callable[[LogRecord], Any],
    side: Side,
    unit: str = "",
    *,
    of: Of = "record",
    harmful: bool = False,
) -> DescriptorKind:
    computation = Computation(each(read))
    return DescriptorKind(value, lambda *_: computation, of=(of,), side=side, harmful=harmful, unit=unit)


# tokens_in counts the template as well as the question, so a new release moves it: service, not input.
LOG_KINDS: Mapping[str, DescriptorKind] = {
    "error": _kind("flag", is_error, "service", harmful=True),
    "tokens_in": _kind("numeric", _of_answered(lambda record: record.tokens_in), "service", "tokens"),
    "tokens_out": _kind("numeric", _of_answered(lambda record: record.tokens_out), "output", "tokens"),
    "latency_ms": _kind("numeric", _of_answered(lambda record: record.latency_ms), "service", "ms"),
    "first_token_ms": _kind("numeric", _of_answered(lambda record: record.first_token_ms), "service", "ms"),
    "empty": _kind("flag", is_empty, "output", of="pair", harmful=True),
}  # fmt: skip
