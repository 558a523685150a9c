"""What a model of the rentals reads, and who may see which hours.

A model reads the columns of a request, and nothing worked out on the way: only what is known when the forecast is asked
for, the calendar and the weather. `casual` and `registered` are the two parts of the count itself, and rentals of
earlier hours come in later than they would be needed.

Splits are always by time, never at random: neighbouring hours are so alike that a model which saw ten o'clock knows
eleven, and its error on hours drawn at random says nothing about next month.

```
2011-01 ........ 2011-10 | 2011-11 2011-12 | 2012-01 … 2012-12
training (search inside) | held out        | replayed month by month
```
"""

from typing import Any

import numpy as np
import pandas as pd

from labs.data import LabelledRows, Split
from labs.training import Fold
from llmops.errors import UsageError
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
HELD_OUT_FROM = "2011-11-01"
REPLAY_FROM = "2012-01-01"
_JUDGED = (("2011-07", "2011-08"), ("2011-09", "2011-10"))
HOLDOUT_DAYS = 10
"""With seven, a test of signs that counts days cannot go below p = 1/64, however clear the case."""


def labelled(table: Any, name: str, source: str) -> LabelledRows:
    """Rows of the table (see `labs.bike.data`) with the counts as truth; the hours of a day are a cluster."""
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
            "time": tuple(("night", "morning", "afternoon", "evening")[hour // 6] for hour in table["hour"]),
            "weather": tuple(("clear", "mist", "wet", "wet")[value - 1] for value in table["weathersit"]),
        },
    )


def first_split(table: Any, source: str) -> Split:
    """January to October 2011, and November and December."""
    return Split(
        between(table, table["date"].iloc[0], HELD_OUT_FROM, source), between(table, HELD_OUT_FROM, REPLAY_FROM, source)
    )


def split_until(table: Any, month: str, source: str, holdout_days: int = HOLDOUT_DAYS) -> Split:
    """All hours up to the end of a month (`2012-03`), with its last days held out.

    Raises:
        UsageError: no hour of that month, or none before the days held out.
    """
    rows = month_rows(table, month, source)
    end = pd.Timestamp(rows.clusters[-1]) + pd.Timedelta(days=1)
    start = end - pd.Timedelta(days=holdout_days)
    return Split(between(table, table["date"].iloc[0], start, source), between(table, start, end, source))


def folds(training: LabelledRows) -> list[Fold]:
    """For the search: two months judge models of all months before them, as November and December judge the last."""
    months = np.asarray([day[:7] for day in training.clusters])
    return [
        (np.flatnonzero(months < first).tolist(), np.flatnonzero((months >= first) & (months <= last)).tolist())
        for first, last in _JUDGED
    ]


def replay_months(table: Any) -> tuple[str, ...]:
    """The months to replay, in order: `2012-01` and on."""
    return tuple(sorted(set(table.loc[table["date"] >= REPLAY_FROM, "date"].dt.strftime("%Y-%m"))))


def month_rows(table: Any, month: str, source: str) -> LabelledRows:
    """The hours of one month. Raises UsageError where there is none."""
    try:
        start = pd.Timestamp(f"{month}-01")
    except ValueError as error:
        raise UsageError(f"{month!r} is no month such as 2012-03") from error
    return between(table, start, start + pd.offsets.MonthBegin(1), source)


def between(table: Any, start: Any, end: Any, source: str) -> LabelledRows:
    """The hours from one day up to another, which is not among them. start, end: `2012-03-01`, or a pandas Timestamp.

    Raises:
        UsageError: there is none.
    """
    first, last = pd.Timestamp(start), pd.Timestamp(end)
    chosen = table[(table["date"] >= first) & (table["date"] < last)]
    if chosen.empty:
        raise UsageError(f"the data has no hour from {first:%Y-%m-%d} up to {last:%Y-%m-%d}")
    return labelled(chosen, f"bike {chosen['date'].iloc[0]:%Y-%m-%d} to {chosen['date'].iloc[-1]:%Y-%m-%d}", source)
