"""Scorers take a row and its output and return a score. A new one is a class and an entry in a module's `TYPES`."""

import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from llmops.errors import UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import (
    classification,
    json_scorers,
    numeric,
    ragas_scorers,
    reference_scorers,
    text_scorers,
)
from llmops.evaluation.scorers.protocol import FingerprintedScorer, MissingExpectation, Scorer

__all__ = [
    "SCORER_TYPES", "Scorer", "ScorerTypes", "default_of", "describe_type", "make_scorer", "meaning_of", "options_of",
    "try_scorer",
]  # fmt: skip

ScorerTypes = Mapping[str, Callable[..., Scorer]]

SCORER_TYPES: ScorerTypes = MappingProxyType(
    {
        **text_scorers.TYPES,
        **numeric.TYPES,
        **json_scorers.TYPES,
        **reference_scorers.TYPES,
        **classification.TYPES,
        **ragas_scorers.TYPES,
    }
)
"""Every type that ships, by the name a suite gives it: what makes a scorer from its name and parameters. A workflow may
hand on a larger table, or one with a model bound to a type (`functools.partial(SemanticSimilarity, embed=…)`)."""


def meaning_of(type_name: str, types: ScorerTypes = SCORER_TYPES) -> str:
    """What a type gives, its options and what it does not count, in words."""
    make: Any = types[type_name]
    return inspect.cleandoc((make.func if isinstance(make, functools.partial) else make).__doc__ or "")


def options_of(make: Callable[..., Scorer]) -> dict[str, FieldInfo]:
    """The options of a type that a suite may set, in order: its fields but those that a workflow hands in."""
    target: Any = make
    bound = {"name", "endpoint", "embed"}
    while isinstance(target, functools.partial):
        bound |= target.keywords.keys()
        target = target.func
    fields: dict[str, FieldInfo] = target.model_fields
    return {field.alias or name: field for name, field in fields.items() if name not in bound}


def make_scorer(
    name: str,
    type_name: str,
    parameters: Mapping[str, Any],
    types: ScorerTypes = SCORER_TYPES,
    also_listed: Sequence[str] = (),
) -> Scorer:
    """A scorer called `name` in results.

    also_listed: options that the caller has taken out of the parameters already; they are listed with the others.

    Raises:
        UsageError: an unknown type or option, one that is missing, or a wrong value, naming it and the type's options.
    """
    if type_name not in types:
        raise UsageError(f"type: unknown scorer type {type_name!r}; known: {', '.join(sorted(types))}")
    options = options_of(types[type_name])
    try:
        if unknown := [option for option in parameters if option not in options]:
            raise UsageError(f"{type_name}: has no option {unknown[0]!r}")
        return types[type_name](name, **parameters)
    except UsageError as error:
        listed = [
            f"{option} (needed)" if field.is_required() else f"{option} = {default_of(field)}"
            for option, field in options.items()
        ]
        listed += [f"{option} = none" for option in also_listed]
        raise UsageError(f"{error}; options of {type_name}: {', '.join(listed) or 'none'}") from error


def default_of(field: FieldInfo) -> str:
    """An option's default as a suite would write it; `none` for none."""
    return "none" if field.default is None else json.dumps(field.default)


def describe_type(field: FieldInfo) -> str:
    """What an option may be, in words: `whole number from 1 to 100`."""
    if field.description:
        return field.description
    annotation: Any = Annotated[field.annotation, "an option", *field.metadata]
    schema = TypeAdapter(annotation).json_schema()
    schema = next((each for each in schema.get("anyOf", ()) if each["type"] != "null"), schema)
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    bounds = [f"{word} {schema[key]:g}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([_KINDS[schema["type"]], *bounds])


_KINDS = {
    "string": "text",
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "array": "list of texts",
    "object": "table",
}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "to below"}

_TEXT = "The cat sat on the mat."
_CALLS = '[{"name": "sit", "args": {"on": "mat"}}]'
# All that any scorer reads of a row.
_ROW = EvalRow(
    "made-up",
    {"question": "Where did the cat sit?"},
    {
        "answers": [_TEXT],
        "expected_response": _TEXT,
        "expected_number": 4,
        "expected_json": {"answer": _TEXT},
        "choices": [_TEXT, "The dog ran."],
        "pattern": "cat",
        "tool_calls": [{"name": "sit", "args": {"on": "mat"}}],
        "reference_contexts": [_TEXT],
        "retrieved_context_ids": ["1"],
        "reference_context_ids": ["1"],
    },
    (_TEXT,),
)
_OUTPUTS = tuple(
    Output(text, tokens_in=9, tokens_out=9, latency_ms=9.0, first_token_ms=3.0, choice_logprobs=(-1.0, -2.0))
    for text in (_TEXT, f'{{"answer": "{_TEXT}"}}', _CALLS, "Москва 4", "")
)


def try_scorer(scorer: Scorer) -> None:
    """Scores a made-up row with several outputs, so that a scorer that cannot score is found before the first answer is
    generated. Scorers that depend on a model (judges, embeddings) are left alone: it might have to be fetched, or asked
    for money. A scorer that finds the row of another kind than it is for is content. Raises UsageError: the scorer
    crashes, or gives an error instead of a score on every output."""
    if isinstance(scorer, FingerprintedScorer):
        return
    try:
        problems = [scorer.score(_ROW, output).error for output in _OUTPUTS]
    except MissingExpectation:
        return
    except Exception as error:
        raise UsageError(f"cannot score a made-up row: {type(error).__name__}: {error}") from error
    if all(problem is not None for problem in problems):
        raise UsageError(f"cannot score a made-up row: {problems[0]}")
