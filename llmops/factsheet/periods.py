"""The times in which a version was champion, from the moves that are on record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from llmops.factsheet.contents import Move, Period

CHAMPION_MOVES = ("promote", "rollback")
GATE_PASSED = "gate passed"
"""Why a promotion was allowed, in the words of the registry; any other reason is one to promote without."""


def periods_of(ref: str, moves: Iterable[Move], *, is_champion: bool) -> tuple[Period, ...]:
    """Oldest first. moves: of the app, oldest first. is_champion: what the alias says, which may have been moved
    without a record."""
    found: list[Period] = []
    for move in moves:
        if move.what not in CHAMPION_MOVES:
            continue
        if found and found[-1].lasts and move.new != ref:
            found[-1] = dataclasses.replace(found[-1], until=move.at, lasts=False, ended=move.what, then=move.new)
        elif move.old == ref and not found:
            found.append(Period(None, move.at, ended=move.what, then=move.new))
        if move.new == ref and not (found and found[-1].lasts):
            forced = move.what == "promote" and move.why != GATE_PASSED
            found.append(Period(move.at, None, True, move.what, why=move.why, forced=forced, after=move.old))
    lasts = bool(found) and found[-1].lasts
    if lasts and not is_champion:
        found[-1] = dataclasses.replace(found[-1], lasts=False)
    if is_champion and not lasts:
        found.append(Period(None, None, True))
    return tuple(found)
