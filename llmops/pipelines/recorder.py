"""Where a run's steps are written down for people to see. The seam to MLflow, which this room does not import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step that ended. number: its place in the run, from 1. output: None where it failed; `error` then says why."""

    number: int
    name: str
    arguments: Sequence[Any]
    output: Any
    seconds: float
    started_at: datetime
    error: str | None = None


class Recorder(Protocol):
    """Each method may be called again with the same after a crash, and must then leave what one call leaves."""

    def begin(self, pipeline: str, cycle: str, inputs: Mapping[str, Any]) -> None:
        """A run begins, or goes on. Raises StoreUnavailable: then the run fails here."""
        ...

    def step(self, record: StepRecord) -> None:
        """A step has just been done. Raises StoreUnavailable: then the step counts as failed, and is done again."""
        ...

    def end(self, result: Mapping[str, Any] | None, error: str | None) -> None:
        """The run has finished, with a result, or failed, with an error. Raises StoreUnavailable."""
        ...


class NoRecorder:
    """Writes nothing down."""

    def begin(self, pipeline: str, cycle: str, inputs: Mapping[str, Any]) -> None:
        """Nothing."""

    def step(self, record: StepRecord) -> None:
        """Nothing."""

    def end(self, result: Mapping[str, Any] | None, error: str | None) -> None:
        """Nothing."""
