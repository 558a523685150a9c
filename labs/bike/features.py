"""What the model reads of an hour: the columns of a request, and nothing worked out on the way.

Only what is known when the forecast is asked for: the calendar and the weather. `casual` and `registered` are the two
parts of the count itself, and rentals of earlier hours come in later than they would be needed.
"""

from __future__ import annotations

from typing import Any

from labs.labelled_rows import LabelledRows
from llmops.tabular import Column, RowSchema

TARGET = "count"
SCHEMA = RowSchema(
    inputs=(
        Column("year", "integer"),
        Column("season", "integer"),
        Column("hour", "integer"),
        Column("weekday", "integer"),
        Column("holiday", "integer"),
        Column("workingday", "integer"),
        Column("weathersit", "integer"),
        Column("temp", "number"),
        Column("atemp", "number"),
        Column("humidity", "number"),
        Column("windspeed", "number"),
    ),
    output=Column(TARGET, "number"),
    task="regression",
)
WORKSHOP_COLUMNS = (
    "temp", "atemp", "humidity", "windspeed", "hour", "weekday", "season", "holiday", "workingday", "weathersit",
)  # fmt: skip
"""What the random forest of the workshop reads, in its order."""


def labelled(table: Any, name: str, source: str) -> LabelledRows:
    """Rows of the table (see `labs.bike.data`) with the counts as truth; the hours of a day are a cluster."""
    import numpy as np

    days = tuple(table["date"].dt.strftime("%Y-%m-%d"))
    return LabelledRows(
        name=name,
        features=table[list(SCHEMA.names)].reset_index(drop=True),
        truth=table[TARGET].to_numpy(dtype=np.float64),
        target=TARGET,
        ids=tuple(f"{day}T{hour:02d}" for day, hour in zip(days, table["hour"], strict=True)),
        clusters=days,
        source=source,
        tags={
            "day": tuple("working day" if value else "day off" for value in table["workingday"]),
            "time": tuple(_part_of_day(hour) for hour in table["hour"]),
            "weather": tuple(("clear", "mist", "wet", "wet")[value - 1] for value in table["weathersit"]),
        },
    )


def _part_of_day(hour: int) -> str:
    return "night" if hour < 6 else "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
