"""Pipelines on a database of their own, and steps that note how often they are called."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.services.servers import PostgresServer
from llmops.pipelines import Pipeline, Pipelines, StepRecord, Steps
from llmops.settings import Settings


@dataclass
class Sums:
    """A pipeline of three steps; `wrong[name]` is raised in that step."""

    called: list[str] = field(default_factory=list)
    wrong: dict[str, Exception] = field(default_factory=dict)

    def step(self, name: str) -> Callable[..., Any]:
        def work(*numbers: int) -> Any:
            self.called.append(name)
            if name in self.wrong:
                raise self.wrong[name]
            return {"sum": sum(numbers), "of": numbers}

        return work

    def pipeline(self, name: str = "sums") -> Pipeline:
        def function(steps: Steps, inputs: Any) -> Any:
            first = steps.do("first", self.step("first"), inputs.get("number", 1), 1)
            second = steps.do("second", self.step("second"), first["sum"], 10)
            third = steps.do("third", self.step("third"), second["sum"], 100)
            return {"sum": third["sum"], "of": third["of"]}

        return Pipeline(name, function, "adds up")


@dataclass
class Book:
    """A recorder that keeps what it was told. `wrong` is raised by each method named in it."""

    begun: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    ended: list[tuple[Any, str | None]] = field(default_factory=list)
    wrong: dict[str, Exception] = field(default_factory=dict)

    def begin(self, pipeline: str, cycle: str, inputs: Any) -> None:
        self.begun.append((pipeline, cycle, dict(inputs)))

    def step(self, record: StepRecord) -> None:
        self.steps.append(record)
        self._fail("step")

    def end(self, result: Any, error: str | None) -> None:
        self.ended.append((result, error))
        self._fail("end")

    def _fail(self, name: str) -> None:
        if name in self.wrong:
            raise self.wrong[name]


@pytest.fixture
def sums() -> Sums:
    return Sums()


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def told() -> list[str]:
    """What pipelines told to wait for."""
    return []


@pytest.fixture
def pipelines(settings: Settings, book: Book, told: list[str]) -> Pipelines:
    return Pipelines(settings, recorder=book, tell=told.append)


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> str:
    """A PostgreSQL database for pipelines, whose tables are in a schema of a fixed name: one for each test."""
    return postgres.new_database(f"pipelines_{uuid.uuid4().hex}")
