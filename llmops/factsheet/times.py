"""Times as sheets write them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(at: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC; None for none."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds") if at else None


def to_the_second(text: str | None) -> str | None:
    """An ISO 8601 time without its microseconds; None for none. Another text stays as it is."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="seconds")
    except ValueError:
        return text


def spoken(at: str | None) -> str:
    """A time as a sentence has it: `2026-05-01 10:00:00 UTC`; empty for none."""
    return (at or "").replace("T", " ").replace("+00:00", " UTC")


def now() -> str:
    """The present."""
    return datetime.now(UTC).isoformat(timespec="seconds")
