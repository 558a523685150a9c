"""The options that a scorer type takes, as its constructor names them: for errors and for the reference page."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.errors import UsageError

# What a workflow hands in, and no suite sets.
_NOT_OF_A_SUITE = frozenset({"name", "endpoint", "embed"})
_KINDS = {
    "str": "text",
    "bool": "true or false",
    "int": "whole number",
    "float": "number",
    "Sequence[str]": "list of texts",
    "Mapping[str, Any]": "table",
    "Any": "see above",
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option. kind: what it is, in words. default: as a suite would write it; empty for none of its own."""

    name: str
    kind: str
    default: str = ""
    needed: bool = False

    def __str__(self) -> str:
        return f"{self.name} (needed)" if self.needed else f"{self.name} = {self.default or 'none'}"


def options_of(make: Callable[..., Any]) -> tuple[Option, ...] | None:
    """The options of a scorer type, in order, by what makes its scorers; None where that takes any keyword.

    A class whose constructor takes any keyword says which it knows by a static method `more_options`, called with what
    the type is bound to.
    """
    target: Any = make
    bound: tuple[Any, ...] = ()
    settled = set(_NOT_OF_A_SUITE)
    while isinstance(target, functools.partial):
        settled |= target.keywords.keys()
        target, bound = target.func, (*target.args, *bound)
    options = []
    for parameter in inspect.signature(make).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if not hasattr(target, "more_options"):
                return None
            options += list(target.more_options(*bound))
        elif parameter.name not in settled and parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            options.append(_option(parameter))
    return tuple(options)


def _option(parameter: inspect.Parameter) -> Option:
    kind = re.sub(r" \| None\Z", "", str(parameter.annotation))
    needed = parameter.default is inspect.Parameter.empty
    default = "" if needed or parameter.default is None else json.dumps(parameter.default, default=str)
    return Option(parameter.name, _KINDS.get(kind, kind), default, needed)


def listed(type_name: str, options: Sequence[Option]) -> str:
    """`options of numeric: take = "last", …`."""
    return f"options of {type_name}: {', '.join(map(str, options)) or 'none'}"


def check_options(type_name: str, options: Sequence[Option], given: Mapping[str, Any]) -> None:
    """Raises UsageError for an option that there is not, or one that is needed and lacks."""
    if unknown := [name for name in given if name not in {option.name for option in options}]:
        raise UsageError(f"{type_name}: has no option {unknown[0]!r}; {listed(type_name, options)}")
    if missing := [option.name for option in options if option.needed and option.name not in given]:
        raise UsageError(f"{type_name}: the option {missing[0]!r} is missing; {listed(type_name, options)}")
