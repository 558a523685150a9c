"""A made-up fortnight of rentals in both shapes they come in, and made-up rows to train on."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from skops.io import dump

from labs.bike.data import SEASONS, WEATHER, WEEKDAYS
from labs.data import LabelledRows
from labs.training import Trained
from llmops.settings import Settings
from llmops.tabular import RowSchema
from llmops.tabular.model import TabularModel
from llmops.tabular.storage import read_estimator

UCI_HEADER = (
    "instant", "dteday", "season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp",
    "atemp", "hum", "windspeed", "casual", "registered", "cnt",
)  # fmt: skip
CATALOGUE_HEADER = (
    "dteday", "season", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed",
    "casual", "registered", "cnt",
)  # fmt: skip
HOURS_OF_A_DAY = (3, 8, 17)

Row = dict[str, str]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def uci_rows(first: str = "2011-01-01", days: int = 14) -> list[Row]:
    """Three hours of each day as UCI's file writes them, in order."""
    rows = []
    for number, date in enumerate(pd.date_range(first, periods=days)):
        for hour in HOURS_OF_A_DAY:
            weekday = (date.dayofweek + 1) % 7
            working = int(weekday in range(1, 6))
            temp = round(0.02 * (number % 50), 2)
            casual, registered = 2 + number % 5, 10 * hour + 30 * working
            values = (
                len(rows) + 1, f"{date:%Y-%m-%d}", 1 + (date.month - 1) // 3, date.year - 2011, date.month, hour, 0,
                weekday, working, 1 + number % 4, temp, round((47 * temp + 8) / 66, 4), 0.81, 0.1642, casual,
                registered, casual + registered,
            )  # fmt: skip
            rows.append(dict(zip(UCI_HEADER, map(str, values), strict=True)))
    return rows


def catalogue_row(row: Row) -> Row:
    """The same hour as the catalogue's file writes it, in real units with their rounding errors."""
    hour = int(row["hr"])
    return {
        "dteday": row["dteday"],
        "season": SEASONS[int(row["season"]) - 1],
        "hr": f"{hour % 12 or 12}{'am' if hour < 12 else 'pm'}",
        "holiday": ("No", "Yes")[int(row["holiday"])],
        "weekday": WEEKDAYS[int(row["weekday"])],
        "workingday": ("No", "Yes")[int(row["workingday"])],
        "weathersit": WEATHER[int(row["weathersit"]) - 1],
        "temp": repr(float(row["temp"]) * 47 - 8),
        "atemp": repr(float(row["atemp"]) * 66 - 16),
        "hum": repr(float(row["hum"]) * 100),
        "windspeed": repr(float(row["windspeed"]) * 67),
        "casual": row["casual"],
        "registered": row["registered"],
        "cnt": row["cnt"],
    }


WriteCsv = Callable[[Sequence[Mapping[str, str]]], Path]


@pytest.fixture
def write_csv(tmp_path: Path) -> WriteCsv:
    """Writes rows with their own header; returns where."""

    def write(rows: Sequence[Mapping[str, str]]) -> Path:
        path = tmp_path / "rentals.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def numbers(n: int = 60, *, seed: int = 0, name: str = "made up", noise: float = 1.0) -> LabelledRows:
    """Rows whose truth is 3 × a + noise; six rows share a cluster."""
    generator = np.random.default_rng(seed)
    features = pd.DataFrame({"a": generator.integers(0, 20, n), "b": generator.random(n)})
    truth = (3 * features["a"] + noise * generator.standard_normal(n)).to_numpy()
    clusters = tuple(f"day {i // 6}" for i in range(n))
    parts = tuple("low" if value < 10 else "high" for value in features["a"])
    ids = tuple(f"row-{i}" for i in range(n))
    return LabelledRows(name, features, truth, "y", ids, clusters, "nowhere", {"part": parts})


def served(model: Trained, schema: RowSchema, folder: Path) -> TabularModel:
    """The model as it is read again from what was written of it, without pickle."""
    dump(model.estimator, folder / "model.skops")
    return TabularModel(read_estimator(folder / "model.skops"), schema)


def said(rows: LabelledRows, offset: float) -> Any:
    """Predictions that are all off by `offset`."""
    return rows.truth + offset
