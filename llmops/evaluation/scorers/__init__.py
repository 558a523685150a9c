"""Scorers: a row and its output in, a score out. A new one is a class and an entry in its module's `TYPES`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from llmops.errors import UsageError
from llmops.evaluation.scorers import (
    choice_scorers,
    classification,
    json_scorers,
    measures,
    numeric,
    ragas_scorers,
    reference_scorers,
    refusal,
    similarity,
    text_scorers,
)
from llmops.evaluation.scorers.protocol import Scorer

__all__ = ["SCORER_TYPES", "Scorer", "ScorerTypes", "make_scorer", "scorer_types"]

ScorerTypes = Mapping[str, Callable[..., Scorer]]

SCORER_TYPES: ScorerTypes = MappingProxyType(
    {
        **text_scorers.TYPES,
        **numeric.TYPES,
        **refusal.TYPES,
        **measures.TYPES,
        **json_scorers.TYPES,
        **reference_scorers.TYPES,
        **classification.TYPES,
        **choice_scorers.TYPES,
        **similarity.TYPES,
        **ragas_scorers.TYPES,
    }
)
"""Every type that ships, by the name a suite gives it: what makes a scorer from its name and parameters. A workflow may
hand on a larger table, or one with a model bound to a type (`functools.partial(SemanticSimilarity, embed=…)`)."""


def scorer_types(types: ScorerTypes = SCORER_TYPES) -> list[str]:
    """Every type that a suite may name."""
    return sorted(types)


def make_scorer(name: str, type_name: str, parameters: Mapping[str, Any], types: ScorerTypes = SCORER_TYPES) -> Scorer:
    """A scorer called `name` in results.

    Raises:
        UsageError: an unknown type or parameter, or a parameter's wrong value, naming it.
    """
    if type_name not in types:
        raise UsageError(f"type: unknown scorer type {type_name!r}; known: {', '.join(scorer_types(types))}")
    try:
        inspect.signature(types[type_name]).bind(name, **parameters)
    except TypeError as error:
        raise UsageError(f"{type_name}: {error}") from error
    return types[type_name](name, **parameters)
