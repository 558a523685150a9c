"""Which records have an answer to describe, and which are in a sample."""

from __future__ import annotations

import hashlib

from llmops.production_log import SHADOW, LogRecord


def is_answered(record: LogRecord) -> bool:
    """Whether the answer is whole, returned or in the shadow: only then has its text anything to say."""
    return record.outcome in ("ok", SHADOW) and record.status < 400


def is_sampled(key: str, share: float) -> bool:
    """Whether a record is in the sample: the same ones each time and for every descriptor of that share or more."""
    number = int.from_bytes(hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest())
    return number < share * 2**64
