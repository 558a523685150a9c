"""Scorers: a row and its output in, a score out. A new one is a class and an entry in its module's `TYPES`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.scorers import json_scorers, ragas_scorers, text_scorers
from llmops.evaluation.scorers.protocol import Scorer

__all__ = ["Scorer", "make_scorer", "scorer_types"]

_TYPES = {**text_scorers.TYPES, **json_scorers.TYPES, **ragas_scorers.TYPES}


def scorer_types() -> list[str]:
    """Every type that a suite may name."""
    return sorted(_TYPES)


def make_scorer(name: str, type_name: str, parameters: Mapping[str, Any]) -> Scorer:
    """A scorer called `name` in results. Raises UsageError for an unknown type or parameter, naming it."""
    if type_name not in _TYPES:
        raise UsageError(f"type: unknown scorer type {type_name!r}; known: {', '.join(scorer_types())}")
    try:
        return _TYPES[type_name](name, **parameters)
    except TypeError as error:
        raise UsageError(f"{type_name}: {error}") from error
