"""What was done to a version, for its fact sheet: from the registry's history of its app."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmops.factsheet.contents import History, Move
from llmops.factsheet.periods import periods_of
from llmops.factsheet.times import to_the_second
from llmops.versions import CHAMPION, Release

_FULL = 20
"""Entries that the registry keeps: with as many, older ones may have been pushed out."""


def history_of(kept: Sequence[Mapping[str, Any]], version: Release) -> History:
    """kept: the registry's own history of the app, oldest first."""
    moves = [_move(entry) for entry in kept]
    periods = periods_of(version.ref, moves, is_champion=CHAMPION in version.aliases)
    told = tuple(move for move in moves if version.ref in (move.old, move.new))
    return History(told, periods, "registry", len(moves) < _FULL)


def _move(entry: Mapping[str, Any]) -> Move:
    return Move(to_the_second(entry["at"]), entry["what"], entry["from"], entry["to"], entry["why"])
