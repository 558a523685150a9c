"""The rentals as one clean table in the order of time, with a report of everything that was done to them.

They come in two shapes: UCI's `hour.csv`, and the catalogue's file.

| column     | UCI's hour.csv              | the catalogue's file             | here                     |
| ---------- | --------------------------- | -------------------------------- | ------------------------ |
| date       | `dteday`                    | `dteday`                         | midnight of the day      |
| hour       | `hr` 0 to 23                | `hr` 12am to 11pm                | 0 to 23                  |
| season     | 1 to 4                      | spring, summer, fall, winter     | 1 to 4                   |
| weekday    | 0 (Sunday) to 6             | Sun to Sat, or empty             | 0 to 6, or missing       |
| holiday, workingday | 0, 1               | No, Yes                          | 0, 1                     |
| weathersit | 1 (clear) to 4 (heavy rain) | Clear to Heavy Rain, or empty    | 1 to 4, or missing       |
| temp       | (°C + 8) / 47               | °C                               | as UCI's                 |
| atemp      | (°C + 16) / 66              | °C (feels like)                  | as UCI's                 |
| humidity   | `hum`, percent / 100        | `hum`, percent                   | as UCI's                 |
| windspeed  | km/h / 67                   | km/h                             | as UCI's                 |
| casual, registered, count | `cnt` is the sum of both | the same         | the same                 |

What UCI's file has besides (`instant`, `yr`, `mnth`) follows from the date.
"""

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from labs.data import DataFinding, LabData, check_table, converted, finite, found, load_data, read_columns
from llmops.errors import BadFile
from llmops.settings import Settings

WEATHER_COLUMNS = ("weathersit", "temp", "atemp", "humidity", "windspeed")
_WHOLE_COLUMNS = ("hour", "season", "year", "month", "holiday", "weekday", "workingday", "weathersit")
_COUNTS = ("casual", "registered", "count")
COLUMNS = ("date", *_WHOLE_COLUMNS, *WEATHER_COLUMNS[1:], *_COUNTS)
SEASONS = ("spring", "summer", "fall", "winter")
WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
WEATHER = ("Clear", "Mist", "Light Rain", "Heavy Rain")
_HOURS = {f"{hour % 12 or 12}{'am' if hour < 12 else 'pm'}": hour for hour in range(24)}
_WHOLE_TEXT = re.compile(r"-?[0-9]{1,9}")
_YEARS = (1900, 2200)
# UCI's file gives so many; rounded to them, both shapes hold the very same numbers.
_DECIMALS = {"temp": 2, "atemp": 4, "humidity": 2, "windspeed": 4}


def load_bike(settings: Settings, source: str | None = None) -> LabData:
    """The rentals: a table with `COLUMNS`, a row for each hour, in the order of time; nothing in it is missing.

    source: `file:PATH` of UCI's `hour.csv` or of the catalogue's file; the catalogue's own when None.

    Raises:
        CannotRun: cannot be fetched. Corrupted: other bytes than the catalogue's. BadFile: names line and field.
    """
    return load_data("bike", clean, settings, source)


def clean(path: Path) -> tuple[Any, int, list[DataFinding]]:
    """The finished table, the number of rows read, and what was done on the way.

    Raises:
        BadFile: names line and field.
    """
    rentals = read_rentals(path)
    findings: list[DataFinding] = []
    table = rentals
    for name in rentals.columns:  # without what nothing else can tell: weekdays and weather are worked out below
        if name not in (*WEATHER_COLUMNS, "weekday"):
            kept = table[table[name].notna()]
            findings += found("dropped", name, len(table) - len(kept), f"rows without {name}")
            table = kept
    if table.empty:
        raise BadFile(path, "holds no row with all that is needed")
    table = _once_each(path, table, findings).sort_values(["date", "hour"], kind="stable")
    if not table.index.is_monotonic_increasing:
        findings += found("repaired", None, len(table), "the rows were in no order; put in that of date and hour")
    table = _with_calendar(table, findings)
    table = _with_weather(table, findings)
    if table.empty:
        raise BadFile(path, "holds no row with weather")
    table = table[list(COLUMNS)].astype(dict.fromkeys((*_WHOLE_COLUMNS, *_COUNTS), "int64"))
    table = check_table(path, table, _schema())
    findings += _looked_at(table)
    return table.reset_index(drop=True), len(rentals), findings


def _once_each(path: Path, table: Any, findings: list[DataFinding]) -> Any:
    """Raises BadFile where two rows of one hour say different things."""
    kept = table.drop_duplicates()
    findings += found("dropped", None, len(table) - len(kept), "rows that stand in the file twice")
    again = kept.duplicated(["date", "hour"])
    if again.any():
        line = int(kept.index[again][0])
        row = kept.loc[line]
        raise BadFile(path, f"another row of {row['date']:%Y-%m-%d}, hour {int(row['hour'])}", line=line, field="hour")
    return kept


def _with_calendar(table: Any, findings: list[DataFinding]) -> Any:
    """year, month and weekday from the date, whatever the file says of them."""
    weekday = (table["date"].dt.dayofweek + 1) % 7  # pandas counts from Monday, the data from Sunday
    given = table["weekday"]
    agree = given == weekday
    wrong = given.notna() & ~agree
    findings += found("imputed", "weekday", given.isna().sum(), "empty; worked out from the date")
    findings += found("repaired", "weekday", wrong.sum(), "not the date's weekday; worked out from the date")
    findings += found("checked", "weekday", agree.sum(), "agree with the date")
    return table.assign(year=table["date"].dt.year, month=table["date"].dt.month, weekday=weekday)


def _with_weather(table: Any, findings: list[DataFinding]) -> Any:
    """Missing weather is that of the last hour that has it: what one would know at the time. A mean over the whole
    table, or the hour after, would tell the past something of the future."""
    filled = table.assign(**{name: table[name].ffill() for name in WEATHER_COLUMNS})
    for name in WEATHER_COLUMNS:
        imputed = int(table[name].isna().sum() - filled[name].isna().sum())
        findings += found("imputed", name, imputed, "empty; that of the last hour before that has it")
    complete = filled.dropna(subset=list(WEATHER_COLUMNS))
    findings += found("dropped", None, len(filled) - len(complete), "rows at the start, with no weather before them")
    return complete


def _looked_at(table: Any) -> Iterator[DataFinding]:
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
    yield DataFinding("checked", "count", len(table), "are the sum of casual and registered")


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


def read_rentals(path: Path) -> Any:
    """A pandas DataFrame of the columns above, in the order of the file; its index is the file's lines. Where the file
    has an empty value, it has a missing one.

    Raises:
        BadFile: neither shape, or a value that cannot be read: names line and field.
    """
    import pandas as pd

    texts = read_columns(path)
    readers = UCI if "instant" in texts.columns or "yr" in texts.columns else CATALOGUE
    in_file = {name: _IN_FILE.get(name, name) for name in readers}
    if missing := [name for name in in_file.values() if name not in texts.columns]:
        raise BadFile(path, f"has no column {', '.join(map(repr, missing))}", line=1)
    return pd.DataFrame({name: converted(path, texts[in_file[name]], *reader) for name, reader in readers.items()})


def _whole(text: str) -> int:
    if not _WHOLE_TEXT.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _date(text: str) -> datetime.datetime:
    day = datetime.datetime.strptime(text, "%Y-%m-%d")
    if not _YEARS[0] <= day.year <= _YEARS[1]:
        raise ValueError(text)
    return day


def _scaled(name: str, offset: float, span: float) -> Callable[[str], float]:
    """Real units as UCI's numbers: (value + offset) / span."""
    return lambda text: round((finite(text) + offset) / span, _DECIMALS[name])


def _word(words: tuple[str, ...], first: int) -> Callable[[str], int]:
    numbers = {word: number for number, word in enumerate(words, first)}
    return numbers.__getitem__


_IN_FILE = {"date": "dteday", "hour": "hr", "humidity": "hum", "count": "cnt"}
"""What the files call a column that has another name here."""
_Reader = tuple[Callable[[str], Any], str]
"""How a column's texts are converted, and what a value must be, for the error that says it is not."""
_WHOLE: _Reader = (_whole, "a whole number")
_NUMBER: _Reader = (finite, "a number")
_YES: _Reader = (_word(("No", "Yes"), 0), "Yes or No")

UCI: Mapping[str, _Reader] = {
    "date": (_date, "a date such as 2011-01-31"),
    **dict.fromkeys(("hour", "season", "weekday", "holiday", "workingday", "weathersit"), _WHOLE),
    **dict.fromkeys(WEATHER_COLUMNS[1:], _NUMBER),
    **dict.fromkeys(_COUNTS, _WHOLE),
}
CATALOGUE: Mapping[str, _Reader] = {
    **UCI,
    "hour": (_HOURS.__getitem__, "an hour from 12am to 11pm"),
    "season": (_word(SEASONS, 1), f"one of {', '.join(SEASONS)}"),
    "weekday": (_word(WEEKDAYS, 0), f"one of {', '.join(WEEKDAYS)}"),
    "holiday": _YES,
    "workingday": _YES,
    "weathersit": (_word(WEATHER, 1), f"one of {', '.join(WEATHER)}"),
    "temp": (_scaled("temp", 8, 47), "a number"),
    "atemp": (_scaled("atemp", 16, 66), "a number"),
    "humidity": (_scaled("humidity", 0, 100), "a number"),
    "windspeed": (_scaled("windspeed", 0, 67), "a number"),
}
