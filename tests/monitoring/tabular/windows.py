"""Windows of rows that tests of the tabular monitor judge: twenty-four hours a day, or rows that are independent."""

from typing import Any

import numpy as np
import pandas as pd

from llmops.tabular.schema import Column, RowSchema

INPUTS = (
    Column("temp", "number", nullable=True),
    Column("hour", "integer"),
    Column("sky", "text", categories=("clear", "mist", "rain")),
    Column("holiday", "boolean"),
)
REGRESSION = RowSchema(INPUTS, Column("count", "number"), "regression")
CLASSIFICATION = RowSchema(INPUTS, Column("kind", "text"), "classification")


def hours(days: int, *, seed: int = 0, error: float = 10.0, warmer: float = 0.0) -> pd.DataFrame:
    """Days of 24 hours. error: standard deviation of truth − prediction. warmer: added to each temperature."""
    chance, rows = np.random.default_rng(seed), days * 24
    prediction = chance.normal(100, 20, rows)
    return pd.DataFrame(
        {
            "temp": chance.normal(0, 1, rows) + np.repeat(chance.normal(0, 0.3, days), 24) + warmer,
            "hour": np.tile(np.arange(24), days),
            "sky": chance.choice(["clear", "mist"], rows),
            "holiday": np.repeat(chance.random(days) < 0.1, 24),
            "prediction": prediction,
            "truth": prediction + chance.normal(0, error, rows),
            "block": np.repeat([f"day {day:04d}" for day in range(days)], 24),
        }
    )


def harder_when_hot(frame: pd.DataFrame) -> pd.DataFrame:
    """The error is three times as large above a temperature of 1."""
    factor = np.where(frame["temp"] > 1, 3.0, 1.0)
    return frame.assign(truth=frame["prediction"] + factor * (frame["truth"] - frame["prediction"]))


def rows_of(days: int, **changed: Any) -> pd.DataFrame:
    """The same rows as independent ones."""
    return hours(days, **changed).drop(columns="block")


def kinds(rows: int, *, seed: int = 0, wrong: float = 0.05) -> pd.DataFrame:
    """Independent rows of a classifier whose probabilities are right on average: `wrong` of its answers are."""
    chance = np.random.default_rng(seed)
    probability = 1 - 2 * wrong * chance.random(rows)
    truth = chance.choice(["red", "white"], rows)
    right = chance.random(rows) < probability
    other = np.where(truth == "red", "white", "red")
    frame = rows_of(-(-rows // 24), seed=seed).head(rows)
    return frame.assign(truth=truth, prediction=np.where(right, truth, other), probability=probability)
