"""Tabular models without an estimator: they check rows as the real ones do, and compute something easy to see."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmops.tabular import Column, Predictions, RowSchema, columns_of
from llmops.versions import TabularVersion

BIKE = RowSchema(
    (
        Column("hour", "integer"),
        Column("weather", "text", categories=("clear", "mist")),
        Column("temperature", "number", nullable=True),
        Column("holiday", "boolean"),
    ),
    Column("count", "number"),
    "regression",
)
WINE = RowSchema((Column("alcohol", "number"),), Column("class", "integer"), "classification")


def version(
    number: int = 1, *aliases: str, name: str = "bike", schema: RowSchema = BIKE, sha256: str | None = None
) -> TabularVersion:
    found = sha256 or f"sha-{name}-{number}"
    return TabularVersion(name, number, found, f"run-{number}", schema.to_json(), "nowhere", aliases)


def row(hour: int = 7, **fields: Any) -> dict[str, Any]:
    return {"hour": hour, "weather": "clear", "temperature": 9.5, "holiday": False, **fields}


@dataclass
class Hours:
    """Predicts `factor` times the hour. calls: rows of each call. before: called before each. example: as stored."""

    factor: float = 1.0
    before: Callable[[Sequence[Any]], object] = lambda _: None
    calls: list[int] = field(default_factory=list)
    example: Mapping[str, Any] | None = None

    def predict(self, rows: Sequence[Mapping[str, Any]], /) -> Predictions:
        self.calls.append(len(rows))
        self.before(rows)
        hours = columns_of(BIKE, rows)["hour"]
        return Predictions([float(hour) * self.factor for hour in hours])


class Classes:
    """Calls a wine with more than 13 % of alcohol class 1."""

    example: Mapping[str, Any] | None = None

    def predict(self, rows: Sequence[Mapping[str, Any]], /) -> Predictions:
        values = [int(alcohol > 13) for alcohol in columns_of(WINE, rows)["alcohol"]]
        return Predictions(values, [{"0": 1.0 - value, "1": float(value)} for value in values])


@dataclass
class Gated:
    """An opener whose loads wait until `may_load` is set. failing: refs that cannot be loaded, and why."""

    may_load: threading.Event = field(default_factory=threading.Event)
    opened: list[str] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)

    def __call__(self, version: TabularVersion) -> Hours:
        self.opened.append(version.ref)
        assert self.may_load.wait(30)
        if version.ref in self.failing:
            raise self.failing[version.ref]
        return Hours(float(version.version))
