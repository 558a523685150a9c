"""The kind `regex`: a pattern of one's own, whose time is bounded whatever the text."""

from __future__ import annotations

from typing import Any

from llmops.settings import Settings
from monitoring.descriptors.computation import Computation, Failed
from monitoring.descriptors.texts import Texts
from monitoring.tables import Table

_MOST_TIME_OUTS = 20
"""In one part of a batch; then the rest of it is not tried, and fails as well."""


def make_regex(table: Table, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`pattern`, found anywhere in the text; `case_sensitive`; `timeout` in seconds for one text.

    Raises:
        BadFile: the pattern does not compile.
    """
    import regex

    pattern, exact = table.text("pattern"), table.switch("case_sensitive", True)
    timeout = table.number("timeout", 0.1, least=0.001, most=10.0)
    try:
        compiled = regex.compile(pattern, 0 if exact else regex.IGNORECASE)
    except (regex.error, RecursionError) as error:
        raise table.wrong("pattern", f"is no regular expression: {error}") from error
    return Computation(lambda texts: _search(compiled, texts, timeout))


def _search(compiled: Any, texts: Texts, timeout: float) -> list[bool | Failed]:
    found: list[bool | Failed] = []
    time_outs = 0
    for text in texts:
        if time_outs >= _MOST_TIME_OUTS:
            found.append(Failed("TimeoutError: too many texts before it took too long"))
            continue
        try:
            found.append(compiled.search(text, timeout=timeout) is not None)
        except TimeoutError:
            time_outs += 1
            found.append(Failed(f"TimeoutError: the pattern took longer than {timeout:g} s"))
    return found
