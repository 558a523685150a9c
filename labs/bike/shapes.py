"""The two shapes the rentals come in, brought to one: UCI's `hour.csv`, and the catalogue's file.

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

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labs.csv_files import converted, read_columns, require_columns

SEASONS = ("spring", "summer", "fall", "winter")
WEEKDAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
WEATHER = ("Clear", "Mist", "Light Rain", "Heavy Rain")
_HOURS = {f"{hour % 12 or 12}{'am' if hour < 12 else 'pm'}": hour for hour in range(24)}
_WHOLE_TEXT = re.compile(r"-?[0-9]{1,9}")
_YEARS = (1900, 2200)
# UCI's file gives so many; rounded to them, both shapes hold the very same numbers.
_DECIMALS = {"temp": 2, "atemp": 4, "humidity": 2, "windspeed": 4}


@dataclass(frozen=True, slots=True)
class _Reader:
    """How one column of the file is read. meaning: what a value must be, for the error that says it is not."""

    column: str
    convert: Callable[[str], Any]
    meaning: str


def read_rentals(path: Path) -> Any:
    """A pandas DataFrame of the columns above, in the order of the file; its index is the file's lines. Where the file
    has an empty value, it has a missing one.

    Raises:
        BadFile: neither shape, or a value that cannot be read: names line and field.
    """
    import pandas as pd

    texts = read_columns(path)
    readers = UCI if "instant" in texts.columns or "yr" in texts.columns else CATALOGUE
    require_columns(path, texts.columns, tuple(reader.column for reader in readers.values()))
    return pd.DataFrame(
        {
            name: converted(path, texts[reader.column], reader.convert, reader.meaning)
            for name, reader in readers.items()
        }
    )


def _whole(text: str) -> int:
    if not _WHOLE_TEXT.fullmatch(text):
        raise ValueError(text)
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _date(text: str) -> datetime.datetime:
    day = datetime.datetime.strptime(text, "%Y-%m-%d")
    if not _YEARS[0] <= day.year <= _YEARS[1]:
        raise ValueError(text)
    return day


def _scaled(name: str, offset: float, span: float) -> Callable[[str], float]:
    """Real units as UCI's numbers: (value + offset) / span."""
    return lambda text: round((_number(text) + offset) / span, _DECIMALS[name])


def _word(words: tuple[str, ...], first: int) -> Callable[[str], int]:
    numbers = {word: number for number, word in enumerate(words, first)}
    return numbers.__getitem__


_WHOLE, _NUMBER, _DATE = "a whole number", "a number", "a date such as 2011-01-31"

UCI: Mapping[str, _Reader] = {
    "date": _Reader("dteday", _date, _DATE),
    "hour": _Reader("hr", _whole, _WHOLE),
    "season": _Reader("season", _whole, _WHOLE),
    "weekday": _Reader("weekday", _whole, _WHOLE),
    "holiday": _Reader("holiday", _whole, _WHOLE),
    "workingday": _Reader("workingday", _whole, _WHOLE),
    "weathersit": _Reader("weathersit", _whole, _WHOLE),
    "temp": _Reader("temp", _number, _NUMBER),
    "atemp": _Reader("atemp", _number, _NUMBER),
    "humidity": _Reader("hum", _number, _NUMBER),
    "windspeed": _Reader("windspeed", _number, _NUMBER),
    "casual": _Reader("casual", _whole, _WHOLE),
    "registered": _Reader("registered", _whole, _WHOLE),
    "count": _Reader("cnt", _whole, _WHOLE),
}
CATALOGUE: Mapping[str, _Reader] = {
    **UCI,
    "hour": _Reader("hr", _HOURS.__getitem__, "an hour from 12am to 11pm"),
    "season": _Reader("season", _word(SEASONS, 1), f"one of {', '.join(SEASONS)}"),
    "weekday": _Reader("weekday", _word(WEEKDAYS, 0), f"one of {', '.join(WEEKDAYS)}"),
    "holiday": _Reader("holiday", _word(("No", "Yes"), 0), "Yes or No"),
    "workingday": _Reader("workingday", _word(("No", "Yes"), 0), "Yes or No"),
    "weathersit": _Reader("weathersit", _word(WEATHER, 1), f"one of {', '.join(WEATHER)}"),
    "temp": _Reader("temp", _scaled("temp", 8, 47), _NUMBER),
    "atemp": _Reader("atemp", _scaled("atemp", 16, 66), _NUMBER),
    "humidity": _Reader("hum", _scaled("humidity", 0, 100), _NUMBER),
    "windspeed": _Reader("windspeed", _scaled("windspeed", 0, 67), _NUMBER),
}
