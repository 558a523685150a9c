"""The rentals as one clean table in the order of time, with a report of everything that was done to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labs.bike.shapes import read_rentals
from labs.quality import Finding, QualityReport, found, profiles
from labs.schema_checks import check_table
from labs.sources import FetchedData, fetch_data
from llmops.errors import BadFile
from llmops.settings import Settings

WEATHER_COLUMNS = ("weathersit", "temp", "atemp", "humidity", "windspeed")
_WHOLE = ("hour", "season", "year", "month", "holiday", "weekday", "workingday", "weathersit")
_COUNTS = ("casual", "registered", "count")
COLUMNS = ("date", *_WHOLE, *WEATHER_COLUMNS[1:], *_COUNTS)


@dataclass(frozen=True, eq=False, slots=True)
class BikeData:
    """table: a pandas DataFrame with `COLUMNS`, a row for each hour, in the order of time; nothing in it is missing."""

    table: Any
    quality: QualityReport
    fetched: FetchedData


def load_bike(settings: Settings, source: str | None = None) -> BikeData:
    """Fetches, checks and cleans the rentals. source: `file:PATH` of UCI's `hour.csv` or of the catalogue's file; the
    catalogue's own when None.

    Raises:
        CannotRun: cannot be fetched. Corrupted: other bytes than the catalogue's. BadFile: names line and field.
    """
    fetched = fetch_data("bike", settings, source)
    table, rows_read, findings = clean(fetched.path)
    report = QualityReport(fetched.source, fetched.sha256, rows_read, len(table), tuple(findings), profiles(table))
    return BikeData(table, report, fetched)


def clean(path: Path) -> tuple[Any, int, list[Finding]]:
    """The finished table, the number of rows read, and what was done on the way.

    Raises:
        BadFile: names line and field.
    """
    rentals = read_rentals(path)
    findings: list[Finding] = []
    table = _without_holes(rentals, findings)
    if table.empty:
        raise BadFile(path, "holds no row with all that is needed")
    table = _once_each(path, table, findings).sort_values(["date", "hour"], kind="stable")
    if not table.index.is_monotonic_increasing:
        findings += found("repaired", None, len(table), "the rows were in no order; put in that of date and hour")
    table = _with_calendar(table, findings)
    table = _with_weather(table, findings)
    if table.empty:
        raise BadFile(path, "holds no row with weather")
    table = table[list(COLUMNS)].astype(dict.fromkeys((*_WHOLE, *_COUNTS), "int64"))
    table = check_table(path, table, _schema())
    findings += _looked_at(table)
    return table.reset_index(drop=True), len(rentals), findings


def _without_holes(rentals: Any, findings: list[Finding]) -> Any:
    """Rows that lack what nothing else can tell are dropped. Weekdays follow from the date, weather from the hour
    before."""
    for name in rentals.columns:
        if name not in (*WEATHER_COLUMNS, "weekday"):
            kept = rentals[rentals[name].notna()]
            findings += found("dropped", name, len(rentals) - len(kept), f"rows without {name}")
            rentals = kept
    return rentals


def _once_each(path: Path, table: Any, findings: list[Finding]) -> Any:
    """Raises BadFile where two rows of one hour say different things."""
    kept = table.drop_duplicates()
    findings += found("dropped", None, len(table) - len(kept), "rows that stand in the file twice")
    again = kept.duplicated(["date", "hour"])
    if again.any():
        line = int(kept.index[again][0])
        row = kept.loc[line]
        raise BadFile(path, f"another row of {row['date']:%Y-%m-%d}, hour {int(row['hour'])}", line=line, field="hour")
    return kept


def _with_calendar(table: Any, findings: list[Finding]) -> Any:
    """year, month and weekday from the date, whatever the file says of them."""
    weekday = (table["date"].dt.dayofweek + 1) % 7  # pandas counts from Monday, the data from Sunday
    given = table["weekday"]
    agree = given == weekday
    wrong = given.notna() & ~agree
    findings += found("imputed", "weekday", given.isna().sum(), "empty; worked out from the date")
    findings += found("repaired", "weekday", wrong.sum(), "not the date's weekday; worked out from the date")
    findings += found("checked", "weekday", agree.sum(), "agree with the date")
    return table.assign(year=table["date"].dt.year, month=table["date"].dt.month, weekday=weekday)


def _with_weather(table: Any, findings: list[Finding]) -> Any:
    """Missing weather is that of the last hour that has it: what one would know at the time. A mean over the whole
    table, or the hour after, would tell the past something of the future."""
    filled = table.assign(**{name: table[name].ffill() for name in WEATHER_COLUMNS})
    for name in WEATHER_COLUMNS:
        imputed = int(table[name].isna().sum() - filled[name].isna().sum())
        findings += found("imputed", name, imputed, "empty; that of the last hour before that has it")
    complete = filled.dropna(subset=list(WEATHER_COLUMNS))
    findings += found("dropped", None, len(filled) - len(complete), "rows at the start, with no weather before them")
    return complete


def _looked_at(table: Any) -> Iterator[Finding]:
    """What is hard to believe, or not there. Nothing is changed: what a sensor should have said is anyone's guess, and
    the models take it as it would come."""
    import pandas as pd

    hours = pd.date_range(table["date"].min(), table["date"].max() + pd.Timedelta(hours=23), freq="h")
    yield from found(
        "missing", None, len(hours) - len(table), "hours without a row, mostly at night and in storms; not filled in"
    )
    yield from found("suspect", "humidity", (table["humidity"] == 0).sum(), "a humidity of 0: a sensor's failure; kept")
    apart = ((table["temp"] * 47 - 8) - (table["atemp"] * 66 - 16)).abs() > 12
    yield from found("suspect", "atemp", apart.sum(), "felt as more than 12 °C from the temperature; kept")
    should = (table["weekday"].between(1, 5) & (table["holiday"] == 0)).astype("int64")
    yield from found(
        "suspect", "workingday", (should != table["workingday"]).sum(), "against weekday and holiday; kept"
    )
    yield Finding("checked", "count", len(table), "are the sum of casual and registered")


def _schema() -> Any:
    """What the finished table must be."""
    import pandera.pandas as pa

    def whole(low: int, high: int | None = None) -> Any:
        if high is None:
            return pa.Column("int64", pa.Check.ge(low, error=f"must be {low} or more"))
        return pa.Column("int64", pa.Check.in_range(low, high, error=f"must be from {low} to {high}"))

    share = pa.Column("float64", pa.Check.in_range(0, 1, error="must be from 0 to 1, in UCI's scale"))
    return pa.DataFrameSchema(
        {
            "date": pa.Column("datetime64[ns]"),
            "hour": whole(0, 23),
            "season": whole(1, 4),
            "year": whole(1900, 2200),
            "month": whole(1, 12),
            "holiday": whole(0, 1),
            "weekday": whole(0, 6),
            "workingday": whole(0, 1),
            "weathersit": whole(1, 4),
            **dict.fromkeys(WEATHER_COLUMNS[1:], share),
            **dict.fromkeys(_COUNTS, whole(0)),
        },
        checks=pa.Check(
            lambda table: table["count"] == table["casual"] + table["registered"],
            error="count must be the sum of casual and registered",
        ),
        strict=True,
    )
