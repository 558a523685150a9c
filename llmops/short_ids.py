"""Ids as tables show them: a beginning is enough where it means one thing."""

from __future__ import annotations

from collections.abc import Collection

from llmops.errors import UnknownVersion, UsageError

MOST_NAMED = 10
"""Ids that an error names; whoever looks for candidates need look for no more than one beyond."""


def whole_id(given: str, known: Collection[str], kind: str, listed_by: str = "") -> str:
    """The one of `known` that is `given`, or else the only one that begins with it.

    kind: what the ids are of, for errors; listed_by: a command that shows them.

    Raises UnknownVersion: none does. UsageError: several do; names them.
    """
    if given in known:
        return given
    found = sorted(each for each in known if given and each.startswith(given))
    if not found:
        raise UnknownVersion(f"no {kind} {given}" + (f"; `{listed_by}` shows those there are" if listed_by else ""))
    if len(found) > 1:
        more = ", …" if len(found) > MOST_NAMED else ""
        raise UsageError(f"{given} begins the ids of several {kind}s: {', '.join(found[:MOST_NAMED])}{more}")
    return found[0]
