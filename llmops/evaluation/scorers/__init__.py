"""Scorers take a row and its output and return a score. A new one is a class and an entry in a module's `TYPES`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
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
    tool_calls,
)
from llmops.evaluation.scorers.options import Option, check_options, listed, options_of
from llmops.evaluation.scorers.protocol import Scorer

__all__ = ["MEANINGS", "SCORER_TYPES", "Scorer", "ScorerTypes", "make_scorer", "meaning_of", "scorer_types"]

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
        **tool_calls.TYPES,
    }
)
"""Every type that ships, by the name a suite gives it: what makes a scorer from its name and parameters. A workflow may
hand on a larger table, or one with a model bound to a type (`functools.partial(SemanticSimilarity, embed=…)`)."""


MEANINGS: Mapping[str, str] = MappingProxyType({**measures.MEANINGS, **ragas_scorers.MEANINGS})
"""What types give whose class does not say it."""


def meaning_of(type_name: str, types: ScorerTypes = SCORER_TYPES, meanings: Mapping[str, str] = MEANINGS) -> str:
    """What a type gives, its options and what it does not count, in words."""
    found = meanings.get(type_name) or inspect.getdoc(types[type_name]) or ""
    return inspect.cleandoc(found).partition("\nRaises:")[0].strip()


def scorer_types(types: ScorerTypes = SCORER_TYPES) -> list[str]:
    """Every type that a suite may name."""
    return sorted(types)


def make_scorer(
    name: str,
    type_name: str,
    parameters: Mapping[str, Any],
    types: ScorerTypes = SCORER_TYPES,
    besides: Sequence[Option] = (),
) -> Scorer:
    """A scorer called `name` in results. besides: options that the caller has taken out of the parameters already; they
    are listed with the others.

    Raises:
        UsageError: an unknown type or option, one that is missing, or a wrong value, naming it and the type's options.
    """
    if type_name not in types:
        raise UsageError(f"type: unknown scorer type {type_name!r}; known: {', '.join(scorer_types(types))}")
    make = types[type_name]
    options = options_of(make)
    if options is None:
        return make(name, **parameters)
    known = (*options, *besides)
    check_options(type_name, known, parameters)
    try:
        return make(name, **parameters)
    except UsageError as error:
        raise UsageError(f"{error}; {listed(type_name, known)}") from error
