"""Checks JSON values: their depth, and JSON schemas, formats too.

JSON Schema leaves it to the validator whether `format` is checked; unchecked, {"format": "date"} lets "tomorrow"
through. Here every format is checked that the library knows in any draft, and one that it doesn't know is an error.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmops.errors import UsageError

MOST_NESTED = 100
"""Levels of a JSON schema, or of a server's reply: far more than any has, and few enough to be written and logged."""

# What drafts after the fourth added. The library checks them only in the drafts that name them, while schemas without
# a draft, or with an old one, use them all the same.
_LATER_FORMATS = (
    "duration", "idn-hostname", "iri", "iri-reference", "json-pointer", "relative-json-pointer", "uri-reference",
    "uri-template", "uuid",
)  # fmt: skip
_UNKNOWN_FORMAT = re.compile(r"Unknown format: ('.*?')")


def schema_validator(schema: Mapping[str, Any], *, linear_patterns: bool = False) -> Any:
    """A `jsonschema_rs` validator that checks formats and fetches nothing. linear_patterns: patterns take linear time
    whatever the text, and know no look-arounds.

    Raises:
        UsageError: not a JSON schema, a reference to another address, or a format that nothing here can check; the text
            starts with the place of the fault, `schema.properties.day.format: `, as far as it is known.
    """
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            dict(schema),
            formats=_later_formats(),
            validate_formats=True,
            ignore_unknown_formats=False,
            # Without it a reference to another document would be fetched: from any address that a client names.
            offline=True,
            pattern_options=jsonschema_rs.RegexOptions() if linear_patterns else None,
        )
    except (ValueError, jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError) as error:
        place = f"schema{steps(getattr(error, 'instance_path', ()))}"
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        if unknown := _UNKNOWN_FORMAT.match(line):
            raise UsageError(f"{place}: nothing here can check the format {unknown[1]}; leave it out") from error
        raise UsageError(f"{place}: not a valid JSON schema: {line}") from error


def steps(path: Iterable[str | int]) -> str:
    """A path into a JSON value as text: `.properties.a[0]`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step[:100]}" for step in path)


@functools.cache
def _later_formats() -> dict[str, Callable[[str], bool]]:
    import jsonschema_rs

    return {
        name: jsonschema_rs.Draft202012Validator({"format": name}, validate_formats=True).is_valid
        for name in _LATER_FORMATS
    }


def is_shallow(value: dict[str, Any] | list[Any]) -> bool:
    """Whether JSON is nested at most `MOST_NESTED` levels deep."""
    level: list[Any] = [value]
    for _ in range(MOST_NESTED):
        inner = [item for each in level for item in (each.values() if isinstance(each, dict) else each)]
        level = [item for item in inner if isinstance(item, (dict, list))]
        if not level:
            return True
    return False
