"""Entries: what is hashed and stored, how aliases stand by them, and what verification finds of a chain."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.audit import AuditEntry, AuditLog, Move, check_chain, verify
from llmops.audit.entries import NO_ENTRY, AliasDifference, AliasReplay
from llmops.errors import Corrupted
from tests.core.test_hashing import JSON


def test_an_entry_is_hashed_with_all_its_fields_and_names_the_hash_of_the_one_before():
    first = AuditEntry.chained(None, "2026-01-01T00:00:00", "anna", "promote", "assistant@1", {"why": "größer"})
    shown = dataclasses.asdict(first)
    claimed = shown.pop("hash")
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert claimed == hashlib.sha256(text.encode()).hexdigest()
    assert (first.seq, first.previous, first.name) == (1, NO_ENTRY, "assistant")
    second = AuditEntry.chained(first, first.at, "anna", "promote", "assistant@1", {"why": "größer"})
    assert (second.seq, second.previous) == (2, first.hash)
    assert second.hash != first.hash


@given(st.dictionaries(st.text(), JSON, max_size=4), st.text(st.characters(codec=None), max_size=9))
def test_whatever_the_details_are_an_entry_comes_back_from_its_row(details, subject):
    entry = AuditEntry.chained(None, "now", subject, "note", subject, details)
    row = entry.to_row()
    assert AuditEntry.from_row(row) == entry
    assert entry.hash == entry.expected_hash()
    assert "\0" not in "".join(map(str, row.values()))
    "".join(map(str, row.values())).encode()  # no half of a surrogate pair, which databases refuse


def test_details_in_another_writing_are_no_entry():
    row = AuditEntry.chained(None, "now", "anna", "note", "a", {"a": 1}).to_row()
    for text in ("", "[]", "{", '{"a": 1}', '{"a":1,"a":1}'):
        with pytest.raises(Corrupted, match="audit entry 1: its details"):
            AuditEntry.from_row({**row, "details": text})


ONE, TWO = {"champion": "a@1"}, {"champion": "a@2", "previous": "a@1"}
HALF_WAY = {"champion": "a@1", "previous": "a@1"}


def promotion(ref: str = "a@2", old: str | None = "a@1", **after: str | None) -> Move:
    return Move("promote", ref, old, ref, "gate passed", after or {"previous": old, "champion": ref})


def moved(audit: AuditLog, move: Move, before: Mapping[str, str]) -> None:
    audit.done(audit.intend(move, before))


def said(audit: AuditLog) -> list[tuple[str, object]]:
    return [(entry.action, entry.details.get("phase")) for entry in audit.entries()]


def test_a_move_is_said_before_and_after(small_audit):
    intent = small_audit.intend(promotion("a@1", None, champion="a@1"), {})
    assert small_audit.replay("a").expected == {}
    small_audit.done(intent)
    assert said(small_audit) == [("promote", "intent"), ("promote", "done")]
    assert (intent.details["before"], intent.details["after"]) == ({}, ONE)
    replay = small_audit.replay("a")
    assert (replay.expected, replay.unfinished) == (ONE, None)


def test_the_first_entry_tells_once_of_what_was_there_before_the_log(small_audit):
    small_audit.open("empty", {})
    moved(small_audit, promotion(), ONE)
    small_audit.open("a", {"champion": "a@3"})
    assert said(small_audit) == [("opening", None), ("promote", "intent"), ("promote", "done")]
    opening = small_audit.entries()[0]
    assert (opening.subject, opening.details) == ("a", {"standing": ONE})
    assert small_audit.replay("a").expected == TWO


def test_a_move_that_was_cut_off_is_gone_on_with_or_another_takes_its_place(small_audit):
    small_audit.open("a", ONE)
    intent = small_audit.intend(promotion(), ONE)
    assert small_audit.intend(promotion(), HALF_WAY) == intent
    other = small_audit.intend(promotion("a@3"), ONE)
    assert other.details["supersedes"] == intent.seq
    small_audit.done(other)
    replay = small_audit.replay("a")
    assert (replay.unfinished, replay.expected) == (None, {"champion": "a@3", "previous": "a@1"})


def test_what_was_moved_around_the_log_is_put_on_record_before_the_next_move(small_audit):
    small_audit.open("a", ONE)
    moved(small_audit, promotion("a@3", "a@2"), {"champion": "a@2"})
    assert said(small_audit) == [("opening", None), ("found", None), ("promote", "intent"), ("promote", "done")]
    assert small_audit.entries()[1].details == {"standing": {"champion": "a@2"}, "expected": ONE}


def test_while_a_move_is_unfinished_each_alias_may_stand_at_either_place(small_audit):
    small_audit.open("a", ONE)
    intent = small_audit.intend(promotion(), ONE)
    small_audit.append("gate", "a@2", {"verdict": "pass"})
    small_audit.append("promote", "a@2", {"phase": "done", "of": 99})
    replay = small_audit.replay("a")
    assert replay.unfinished == intent  # entries that move nothing change nothing
    assert small_audit.replay("b") == AliasReplay()
    assert [replay.differences(found) for found in (ONE, TWO, HALF_WAY)] == [[], [], []]
    differing = replay.differences({"champion": "a@3", "challenger": "a@1"})
    assert [each.what for each in differing] == ["challenger", "champion"]
    assert [replay.is_carried_out(found) for found in (ONE, TWO)] == [False, True]


LENGTH = 6
FIELDS = ("at", "actor", "action", "subject", "details", "previous", "hash")


def chain(count: int) -> list[dict[str, Any]]:
    """Rows of a whole chain, as they are stored."""
    last, rows = None, []
    for number in range(count):
        last = AuditEntry.chained(last, f"2026-01-01T00:00:{number:02}", "anna", "note", f"app@{number}", {})
        rows.append(last.to_row())
    return rows


ROWS = chain(LENGTH)


def broken_at(seq: int, rows: list[dict[str, Any]], head: str | None = None) -> str:
    """Why the chain is broken at that entry."""
    broken = check_chain(rows, head).broken
    assert broken is not None
    assert broken.seq == seq
    return broken.why


def renumbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "seq": number} for number, row in enumerate(rows, 1)]


def test_a_whole_chain_has_a_head_and_holds_those_of_before():
    found = check_chain(ROWS)
    assert (found.entries, found.head, found.broken) == (LENGTH, ROWS[-1]["hash"], None)
    assert check_chain([]).head is None
    assert check_chain(ROWS, head=ROWS[2]["hash"]).broken is None


@given(st.integers(0, LENGTH - 1), st.sampled_from(FIELDS), st.text(max_size=5))
def test_an_altered_entry_is_named(place, field, text):
    altered = [dict(row) for row in ROWS]
    altered[place][field] = f"{altered[place][field]}{text}."
    assert "altered" in broken_at(place + 1, altered)


@pytest.mark.parametrize("place", range(LENGTH))
def test_an_altered_entry_with_a_new_hash_shows_at_the_next_and_a_cut_off_end_with_a_head_alone(place):
    altered = [dict(row) for row in ROWS]
    forged = AuditEntry.from_row({**altered[place], "actor": "nobody"})
    altered[place] = {**forged.to_row(), "hash": forged.expected_hash()}
    broken_at(place + 2, altered, head=ROWS[-1]["hash"])
    assert check_chain(ROWS[:place]).broken is None
    assert "cut off" in broken_at(place + 1, ROWS[:place], head=ROWS[-1]["hash"])


@given(st.integers(0, LENGTH - 1), st.integers(0, LENGTH - 1))
def test_an_entry_that_was_removed_or_inserted_is_named(place, copied):
    broken_at(place + 2 if copied == place else place + 1, renumbered([*ROWS[:place], ROWS[copied], *ROWS[place:]]))
    if place < LENGTH - 1:
        removed = [*ROWS[:place], *ROWS[place + 1 :]]
        for rows in (removed, renumbered(removed)):
            broken_at(place + 1, rows)


def test_a_forged_entry_that_follows_well_shows_where_the_old_one_goes_on():
    forged = AuditEntry.chained(AuditEntry.from_row(ROWS[1]), "now", "nobody", "promote", "app@9", {}).to_row()
    broken_at(4, renumbered([*ROWS[:2], forged, *ROWS[2:]]))


def test_an_alias_moved_around_the_log_or_gone_is_found(audit):
    for ref in ("a@1", "b@1", "c@1"):
        moved(audit, promotion(ref, None, champion=ref), {})
    found = verify(audit, lambda: {"a": {"champion": "a@2"}, "b": {"champion": "b@1"}})
    assert (found.whole, found.broken) == (False, None)
    logged = {"a": ["a@1"], "c": ["c@1"]}
    assert found.differences == tuple(
        AliasDifference(name, "champion", logged[name], standing) for name, standing in (("a", "a@2"), ("c", None))
    )
    assert found.to_json()["moved"][0] == {"name": "a", "what": "champion", "logged": ["a@1"], "found": "a@2"}


def test_what_the_log_does_not_know_yet_and_a_move_that_was_cut_off_are_told_and_no_fault(small_audit):
    intent = small_audit.intend(promotion("a@1", None, champion="a@1"), {})
    for standing in ({}, {"a": {"champion": "a@1"}, "old": {"champion": "old@3"}, "new": {}}):
        found = verify(small_audit, lambda standing=standing: standing)
        assert (found.whole, found.unfinished) == (True, (intent,))
        assert found.to_json()["unfinished"][0]["seq"] == intent.seq
    assert found.unaudited == ("old",)


def test_without_a_registry_or_of_a_broken_chain_nothing_is_concluded_about_aliases(small_audit):
    moved(small_audit, promotion("a@1", None, champion="a@1"), {})
    sound = {"whole": True, "entries": 2, "head": small_audit.entries()[-1].hash, "broken": None}
    assert verify(small_audit).to_json() == {**sound, "moved": [], "unfinished": [], "unaudited": []}

    def unasked() -> Any:
        raise AssertionError("the registry was read")

    found = verify(small_audit, unasked, head="f" * 64)
    assert not found.whole
    assert found.to_json()["broken"]["seq"] == 3
