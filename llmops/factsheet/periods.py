"""The times in which a version was champion, from the moves that are on record."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from llmops.factsheet.contents import Move, Period

FOUND = "found"
CHAMPION_MOVES = ("promote", "rollback", FOUND)


def periods_of(ref: str, moves: Iterable[Move], *, is_champion: bool) -> tuple[Period, ...]:
    """Oldest first. moves: of the app, oldest first. is_champion: what the alias says, which may have been moved
    without a record."""
    found: list[Period] = []
    for move in moves:
        if move.what not in CHAMPION_MOVES:
            continue
        lasts = bool(found) and found[-1].lasts
        if lasts and move.new != ref:
            found[-1] = _ended(found[-1], move)
        elif not found and move.old == ref != move.new:
            found.append(_ended(Period(None), move))
        if not lasts and move.new == ref:
            found.append(_begun(move))
    lasts = bool(found) and found[-1].lasts
    if lasts and not is_champion:
        found[-1] = dataclasses.replace(found[-1], lasts=False)
    if is_champion and not lasts:
        found.append(Period(None, lasts=True))
    return tuple(found)


def _begun(move: Move) -> Period:
    if move.what == FOUND:
        return Period(None, lasts=True)
    return Period(move.at, None, True, move.what, why=move.why, forced=move.forced, after=move.old)


def _ended(period: Period, move: Move) -> Period:
    if move.what == FOUND:
        return dataclasses.replace(period, lasts=False)
    return dataclasses.replace(period, until=move.at, lasts=False, ended=move.what, then=move.new)
