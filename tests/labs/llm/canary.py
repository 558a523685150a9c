"""What users got while a challenger had its share of the traffic."""

import random
from datetime import datetime, timedelta

from llmops.production_log import LogRecord

REFUSAL = "I'm sorry, but I cannot help with that."
QUESTION = "What is 7 + {}?"


def canary_traffic(
    app: str,
    at: datetime,
    rows: int,
    *,
    first: int = 0,
    refused: float = 0.0,
    failed: float = 0.0,
    asked: str = QUESTION,
) -> list[LogRecord]:
    """As many requests of each side, champion (version 1) and challenger (2), a millisecond apart.

    first: the number of the first one.
    refused: the share of its own that the challenger refuses.
    failed: the share of both sides' that fails.
    asked: what the challenger is asked.
    """
    chance, made = random.Random(3), []  # noqa: S311
    for number in range(first, first + 2 * rows):
        arm, version = ("champion", 1) if number % 2 else ("challenger", 2)
        refuses = arm == "challenger" and chance.random() < refused
        record = {
            "request_id": f"{app}-{number}", "at": (at + timedelta(milliseconds=number)).isoformat(), "status": 200,
            "input": (asked if arm == "challenger" else QUESTION).format(chance.randint(1, 99)), "arm": arm,
            "output": REFUSAL if refuses else f"That is {chance.randint(1, 99)}.", "release": f"{app}@{version}",
            "latency_ms": chance.uniform(20, 30),
        }  # fmt: skip
        if failed and chance.random() < failed:
            record |= {"status": 503, "outcome": "error", "output": ""}
        made.append(LogRecord.from_json(record))
    return made
