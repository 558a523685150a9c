"""Rows and a model like the bike lab's, made up: eleven columns, gradient boosting behind an encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from llmops.settings import Settings
from llmops.tabular import Column, RowSchema
from llmops.versions import TabularVersion

WEATHERS = ("clear", "mist", "rain", "storm")
SCHEMA = RowSchema(
    (
        *(Column(name, "integer") for name in ("season", "month", "hour", "weekday")),
        *(Column(name, "boolean") for name in ("holiday", "workingday")),
        Column("weather", "text", categories=WEATHERS),
        *(Column(name, "number") for name in ("temperature", "felt_temperature", "humidity", "wind")),
    ),
    Column("count", "number"),
    "regression",
)
TREES = 200


@dataclass(frozen=True, slots=True)
class Registered:
    """The model in a home of its own. folder: MLflow's files of it."""

    version: TabularVersion
    folder: Path


def frame(rows: int, seed: int = 1) -> pd.DataFrame:
    """So many rows of hours, with their `count`."""
    chance = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "season": chance.integers(1, 5, rows),
        "month": chance.integers(1, 13, rows),
        "hour": chance.integers(0, 24, rows),
        "weekday": chance.integers(0, 7, rows),
        "holiday": chance.random(rows) < 0.03,
        "workingday": chance.random(rows) < 0.7,
        "weather": chance.choice(WEATHERS, rows, p=(0.6, 0.3, 0.09, 0.01)).astype(object),
        "temperature": chance.normal(15, 9, rows).round(2),
        "felt_temperature": chance.normal(14, 9, rows).round(2),
        "humidity": chance.random(rows).round(2),
        "wind": chance.gamma(2, 6, rows).round(2),
    }
    daily = 100 + 90 * np.sin((columns["hour"] - 8) / 24 * 2 * np.pi)
    columns["count"] = np.maximum(0.0, daily + 4 * columns["temperature"] + chance.normal(0, 30, rows)).round()
    return pd.DataFrame(columns)


def json_rows(rows: int, seed: int = 2) -> list[Mapping[str, Any]]:
    """Rows as a client sends them."""
    records: list[Mapping[str, Any]] = json.loads(frame(rows, seed)[list(SCHEMA.names)].to_json(orient="records"))
    return records


def fitted(rows: int = 17_000) -> Any:
    """The estimator, fitted on as many rows as two years have hours."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OrdinalEncoder

    encode = ColumnTransformer(
        [("weather", OrdinalEncoder(categories=[list(WEATHERS)]), ["weather"])],
        remainder="passthrough",
        verbose_feature_names_out=False,
    )
    boosting = HistGradientBoostingRegressor(max_iter=TREES, early_stopping=False, random_state=1)
    table = frame(rows)
    return Pipeline([("encode", encode), ("boosting", boosting)]).fit(table[list(SCHEMA.names)], table["count"])


def register(settings: Settings) -> Registered:
    """Trains the model, logs it, registers it as `bike@1` and makes it the champion."""
    from llmops.recording.tabular import record_training
    from llmops.registry import Registry

    registry = Registry(settings)
    logged = record_training(
        registry.store,
        experiment="bench",
        run_name="bike-like",
        estimator=fitted(),
        schema=SCHEMA,
        example=frame(3)[list(SCHEMA.names)],
        parameters={"trees": TREES},
        metrics={},
    )
    version, _ = registry.tabular_versions.register("bike", logged)
    registry.tabular_versions.promote(version, why="a benchmark")
    return Registered(version, registry.tabular_versions.fetch(version))
