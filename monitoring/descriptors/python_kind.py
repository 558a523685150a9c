"""The kind `python`: a function of one's own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

from llmops.settings import Settings
from monitoring.descriptors.computation import Computation, each
from monitoring.descriptors.model import Kind
from monitoring.tables import Table


def make_python(table: Table, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`function = "module:name"` of a text (of input or output) or of a log record (of pair, or of record).

    `returns`: numeric, flag or label. `per`: `row` calls it for each, `column` once with a list, for as many values.
    None means no value. `revision`: to be raised when the function changes, for its code is not looked at.

    Raises:
        BadFile: there is no such function.
    """
    function = _imported(table)
    value = cast(Kind, table.choice("returns", ("numeric", "flag", "label")))
    table.whole("revision", least=1)
    whole = table.choice("per", ("row", "column"), "row") == "column"
    return Computation((lambda items: list(function(list(items)))) if whole else each(function), value=value)


def _imported(table: Table) -> Callable[..., Any]:
    module, _, name = table.text("function").partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise table.wrong("function", f"must be module:name of a function that can be imported: {error}") from error
    if not callable(function):
        raise table.wrong("function", f"{module}:{name} is not a function")
    return cast(Callable[..., Any], function)
