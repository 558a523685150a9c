"""Who may see which hours. Always by time, never at random: neighbouring hours are so alike that a model which saw ten
o'clock knows eleven, and its error on hours drawn at random says nothing about next month.

```
2011-01 ........ 2011-10 | 2011-11 2011-12 | 2012-01 … 2012-12
training (search inside) | held out        | replayed month by month
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labs.bike.features import labelled
from labs.labelled_rows import LabelledRows
from labs.training import Fold
from llmops.errors import UsageError

HELD_OUT_FROM = "2011-11-01"
REPLAY_FROM = "2012-01-01"
_JUDGED = (("2011-07", "2011-08"), ("2011-09", "2011-10"))
HOLDOUT_DAYS = 10
"""With seven, a test of signs that counts days cannot go below p = 1/64, however clear the case."""


@dataclass(frozen=True, eq=False, slots=True)
class Split:
    """training: what a model may be fitted on. holdout: later hours, that judge it."""

    training: LabelledRows
    holdout: LabelledRows


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
    import pandas as pd

    rows = month_rows(table, month, source)
    end = pd.Timestamp(rows.clusters[-1]) + pd.Timedelta(days=1)
    start = end - pd.Timedelta(days=holdout_days)
    return Split(between(table, table["date"].iloc[0], start, source), between(table, start, end, source))


def folds(training: LabelledRows) -> list[Fold]:
    """For the search: two months judge models of all months before them, as November and December judge the last."""
    import numpy as np

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
    import pandas as pd

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
    import pandas as pd

    first, last = pd.Timestamp(start), pd.Timestamp(end)
    chosen = table[(table["date"] >= first) & (table["date"] < last)]
    if chosen.empty:
        raise UsageError(f"the data has no hour from {first:%Y-%m-%d} up to {last:%Y-%m-%d}")
    return labelled(chosen, f"bike {chosen['date'].iloc[0]:%Y-%m-%d} to {chosen['date'].iloc[-1]:%Y-%m-%d}", source)


def workshop_split(table: Any, source: str) -> Split:
    """The split of the workshop this lab grew from, to compare with its figures: January and February 2011, 30 % of the
    hours drawn at random."""
    from sklearn.model_selection import train_test_split

    rows = between(table, "2011-01-01", "2011-03-01", source)
    training, holdout = train_test_split(range(len(rows)), test_size=0.3, random_state=42)
    return Split(rows.take("workshop training", training), rows.take("workshop test", holdout))
