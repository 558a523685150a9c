"""The guards of a release: what the gateway keeps it from letting through. Part of its content, so of its identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import regex

from llmops.errors import UsageError

KNOWN = "redact-pii, redact-pii-engine, block=REGEX, max-output=TOKENS"


def parse_guards(texts: Iterable[str]) -> dict[str, Any]:
    """Guards as the command line names them, in the shape of `Release.guards`.

    `redact-pii`: personal data is removed before the request is logged. `redact-pii-engine`: before the engine reads it
    too. `block=REGEX` (any number): a request or answer that it matches is refused. `max-output=TOKENS`: no answer is
    longer.

    Raises:
        UsageError: an unknown guard or a wrong value; the text starts with the guard.
    """
    guards: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if text in ("redact-pii", "redact-pii-engine"):
            guards["redact_log"] = True
            if text == "redact-pii-engine":
                guards["redact_engine"] = True
        elif name == "block" and sign:
            guards.setdefault("block", []).append(value)
        elif name == "max-output" and sign:
            guards["max_output"] = int(value) if value.isascii() and value.isdigit() else value
        else:
            raise UsageError(f"--guard {text}: unknown guard; there is {KNOWN}")
    return check_guards(guards)


def check_guards(guards: Mapping[str, Any]) -> dict[str, Any]:
    """The same guards, checked: equal ones are written alike. Raises UsageError starting with the guard at fault."""
    checked: dict[str, Any] = {}
    for name, value in guards.items():
        if name in ("redact_log", "redact_engine"):
            if not isinstance(value, bool):
                raise UsageError(f"{name}: must be true or false")
        elif name == "block":
            value = sorted(set(_patterns(value)))
        elif name == "max_output":
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError("max-output: must be a whole number of 1 or more")
        else:
            raise UsageError(f"{name}: unknown guard; there is {KNOWN}")
        if value:
            checked[name] = value
    return checked


def shown_guards(guards: Mapping[str, Any]) -> list[str]:
    """Guards as `parse_guards` reads them."""
    redaction = "redact-pii-engine" if guards.get("redact_engine") else "redact-pii"
    shown = [redaction] if guards.get("redact_engine") or guards.get("redact_log") else []
    shown += [f"block={pattern}" for pattern in guards.get("block", [])]
    return shown + ([f"max-output={guards['max_output']}"] if "max_output" in guards else [])


def _patterns(values: Any) -> Sequence[str]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UsageError("block: must be a list of regular expressions")
    for value in values:
        if not isinstance(value, str) or not value:
            raise UsageError("block: must be a regular expression of one character or more")
        try:
            regex.compile(value)  # the library that the gateway applies them with
        except (regex.error, RecursionError, OverflowError) as error:
            raise UsageError(f"block: {value!r} is not a regular expression: {error}") from error
    return values
