"""Two made-up years of rentals, with a level that rises from one to the next, as the table that models read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from labs.bike.data import COLUMNS
from labs.data import LabData, QualityReport
from labs.sources import FetchedData


@pytest.fixture(scope="session")
def years(tmp_path_factory: pytest.TempPathFactory) -> LabData:
    """Four hours of each day from April 2011 to March 2012; half as many again in 2012."""
    generator = np.random.default_rng(0)
    dates = pd.date_range("2011-04-01", "2012-03-31").repeat(4)
    hours = np.tile([3, 8, 12, 17], len(dates) // 4)
    weekday = (dates.dayofweek + 1) % 7
    working = np.isin(weekday, range(1, 6)).astype("int64")
    noise = 0.05 * generator.standard_normal(len(dates))
    temp = np.clip(0.5 + 0.3 * np.sin(np.asarray(dates.dayofyear) / 58) + noise, 0, 1)
    level = np.select([hours == 3, hours == 12], [10, 120], 80 + 120 * working) * np.where(dates.year == 2012, 1.6, 1)
    count = generator.poisson(level * (0.5 + temp))
    table = pd.DataFrame(
        {
            "date": dates, "hour": hours, "season": 1 + (dates.month - 1) // 3, "year": dates.year,
            "month": dates.month, "holiday": 0, "weekday": weekday, "workingday": working,
            "weathersit": generator.integers(1, 4, len(dates)), "temp": temp, "atemp": temp,
            "humidity": generator.random(len(dates)), "windspeed": generator.random(len(dates)) / 2,
            "casual": count // 5, "registered": count - count // 5, "count": count,
        }
    ).astype({"year": "int64", "month": "int64", "season": "int64", "weekday": "int64"})  # fmt: skip
    fetched = FetchedData(tmp_path_factory.mktemp("years") / "years.csv", "made up", "0" * 64, "CC0", "Nobody")
    quality = QualityReport("made up", "0" * 64, len(table), len(table), (), ())
    return LabData(table[list(COLUMNS)], quality, fetched)
