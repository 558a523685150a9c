"""Entries: what is hashed and stored, how aliases stand by them, and what verification finds of a chain."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.audit import AuditEntry, AuditLog, Draft, Move, check_chain, verify
from llmops.audit.entries import NO_ENTRY, Difference, Replay
from llmops.errors import Corrupted
from tests.audit.conftest import chain

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_the_hash_is_sha256_of_the_canonical_json_of_all_other_fields():
    entry = AuditEntry.chained(None, "2026-01-01T00:00:00", "anna", Draft("promote", "assistant@1", {"why": "größer"}))
    shown = entry.to_json()
    claimed = shown.pop("hash")
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert claimed == hashlib.sha256(text.encode()).hexdigest()
    assert (entry.seq, entry.previous, entry.name) == (1, NO_ENTRY, "assistant")


def test_an_entry_names_the_hash_of_the_one_before():
    first = AuditEntry.chained(None, "now", "anna", Draft("promote", "a@1"))
    second = AuditEntry.chained(first, "now", "anna", Draft("promote", "a@1"))
    assert (second.seq, second.previous) == (2, first.hash)
    assert second.hash != first.hash


@given(st.dictionaries(st.text(), JSON_VALUES, max_size=4), st.text(st.characters(codec=None), max_size=9))
def test_whatever_the_details_are_an_entry_comes_back_from_its_row(details, subject):
    entry = AuditEntry.chained(None, "now", subject, Draft("note", subject, details))
    row = entry.to_row()
    assert AuditEntry.from_row(row) == entry
    assert entry.hash == entry.expected_hash()
    assert "\0" not in "".join(map(str, row.values()))
    "".join(map(str, row.values())).encode()  # no half of a surrogate pair, which databases refuse


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a":1,"a":1}'])
def test_details_in_another_writing_are_no_entry(text):
    row = AuditEntry.chained(None, "now", "anna", Draft("note", "a", {"a": 1})).to_row()
    with pytest.raises(Corrupted, match="audit entry 1: its details"):
        AuditEntry.from_row({**row, "details": text})


ONE, TWO = {"champion": "a@1"}, {"champion": "a@2", "previous": "a@1"}


def promotion(ref: str = "a@2", old: str | None = "a@1", **after: str | None) -> Move:
    wanted = after or {"previous": old, "champion": ref}
    return Move("promote", "promote", ref, old, ref, "gate passed", wanted)


def said(audit: AuditLog) -> list[tuple[str, object]]:
    return [(entry.action, entry.details.get("phase")) for entry in audit.entries()]


def test_a_move_is_said_before_and_after(small_audit):
    intent = small_audit.intend(promotion("a@1", None, champion="a@1"), {})
    assert small_audit.replay("a").expected == {}
    small_audit.done(intent)
    assert said(small_audit) == [("promote", "intent"), ("promote", "done")]
    assert intent.details["before"] == {}
    assert intent.details["after"] == ONE
    replay = small_audit.replay("a")
    assert (replay.expected, replay.unfinished) == (ONE, None)


def test_the_first_entry_tells_of_what_was_there_before_the_log(small_audit):
    small_audit.done(small_audit.intend(promotion(), ONE))
    opening = small_audit.entries()[0]
    assert said(small_audit) == [("opening", None), ("promote", "intent"), ("promote", "done")]
    assert (opening.subject, opening.details) == ("a", {"standing": ONE})
    assert small_audit.replay("a").expected == TWO


def test_opening_is_written_once_and_not_for_nothing(small_audit):
    small_audit.open("empty", {})
    small_audit.open("a", ONE)
    small_audit.open("a", TWO)
    assert [(entry.action, entry.subject) for entry in small_audit.entries()] == [("opening", "a")]


def test_a_move_that_was_cut_off_is_gone_on_with(small_audit):
    small_audit.open("a", ONE)
    intent = small_audit.intend(promotion(), ONE)
    half_way = {"champion": "a@1", "previous": "a@1"}
    again = small_audit.intend(promotion(), half_way)
    assert again == intent
    small_audit.done(again)
    assert small_audit.replay("a").expected == TWO


def test_another_move_takes_the_place_of_one_that_was_cut_off(small_audit):
    small_audit.open("a", ONE)
    first = small_audit.intend(promotion(), ONE)
    other = small_audit.intend(promotion("a@3"), ONE)
    small_audit.done(other)
    assert other.details["supersedes"] == first.seq
    assert small_audit.replay("a").unfinished is None
    assert small_audit.replay("a").expected == {"champion": "a@3", "previous": "a@1"}


def test_what_was_moved_around_the_log_is_put_on_record_before_the_next_move(small_audit):
    small_audit.open("a", ONE)
    small_audit.done(small_audit.intend(promotion("a@3", "a@2"), {"champion": "a@2"}))
    found = small_audit.entries()[1]
    assert said(small_audit) == [("opening", None), ("found", None), ("promote", "intent"), ("promote", "done")]
    assert found.details == {"standing": {"champion": "a@2"}, "expected": ONE}


def test_while_a_move_is_unfinished_each_alias_may_stand_at_either_place(small_audit):
    small_audit.open("a", ONE)
    small_audit.intend(promotion(), ONE)
    replay = small_audit.replay("a")

    def differing(found: Mapping[str, str]) -> list[str]:
        return [difference.what for difference in replay.differences(found)]

    assert [differing(found) for found in (ONE, TWO, {"champion": "a@1", "previous": "a@1"})] == [[], [], []]
    assert differing({"champion": "a@3", "challenger": "a@1"}) == ["challenger", "champion"]
    assert not replay.is_carried_out(ONE)
    assert replay.is_carried_out(TWO)


def test_a_difference_names_where_the_log_has_it():
    replay = Replay("a", known=True, expected=ONE)
    (difference,) = replay.differences({"champion": "a@2"})
    assert difference == Difference("a", "champion", ("a@1",), "a@2")
    assert difference.to_json() == {"name": "a", "what": "champion", "logged": ["a@1"], "found": "a@2"}
    assert replay.differences({})[0].found is None


def test_entries_that_move_nothing_change_nothing(small_audit):
    small_audit.open("a", ONE)
    intent = small_audit.intend(promotion(), ONE)
    small_audit.append(Draft("gate", "a@2", {"verdict": "pass"}), Draft("promote", "a@2", {"phase": "done", "of": 99}))
    assert small_audit.replay("a").unfinished == intent
    assert small_audit.replay("b") == Replay()


LENGTH = 6
FIELDS = ("at", "actor", "action", "subject", "details", "previous", "hash")
ROWS = chain(LENGTH)


def broken_at(seq: int, rows: list[dict[str, Any]], head: str | None = None) -> str:
    """Why the chain is broken at that entry."""
    broken = check_chain(rows, head).broken
    assert broken is not None
    assert broken.seq == seq
    return broken.why


def test_a_whole_chain_has_a_head():
    found = check_chain(ROWS)
    assert (found.entries, found.head, found.broken) == (LENGTH, ROWS[-1]["hash"], None)
    assert check_chain([]).head is None


@given(st.integers(0, LENGTH - 1), st.sampled_from(FIELDS), st.text(max_size=5))
def test_an_altered_entry_is_named(place, field, text):
    altered = [dict(row) for row in ROWS]
    altered[place][field] = f"{altered[place][field]}{text}."
    assert "altered" in broken_at(place + 1, altered)


@given(st.integers(0, LENGTH - 1))
def test_an_altered_entry_with_a_new_hash_shows_at_the_next_or_at_the_head(place):
    altered = [dict(row) for row in ROWS]
    forged = AuditEntry.from_row({**altered[place], "actor": "nobody"})
    altered[place] = {**forged.to_row(), "hash": forged.expected_hash()}
    broken_at(place + 2, altered, head=ROWS[-1]["hash"])


@given(st.integers(0, LENGTH - 2))
def test_a_removed_entry_is_named(place):
    removed = [*ROWS[:place], *ROWS[place + 1 :]]
    closed_up = [{**row, "seq": number} for number, row in enumerate(removed, 1)]
    for rows in (removed, closed_up):
        broken_at(place + 1, rows)


@given(st.integers(0, LENGTH - 1), st.integers(0, LENGTH - 1))
def test_an_inserted_entry_is_named(place, copied):
    inserted = [*ROWS[:place], ROWS[copied], *ROWS[place:]]
    rows = [{**row, "seq": number} for number, row in enumerate(inserted, 1)]
    broken_at(place + 2 if copied == place else place + 1, rows)


def test_a_forged_entry_that_follows_well_shows_where_the_old_one_goes_on():
    before = AuditEntry.from_row(ROWS[1])
    forged = AuditEntry.chained(before, "now", "nobody", Draft("promote", "app@9")).to_row()
    shifted = [{**row, "seq": row["seq"] + 1} for row in ROWS[2:]]
    broken_at(4, [*ROWS[:2], forged, *shifted])


@pytest.mark.parametrize("kept", range(LENGTH))
def test_entries_cut_off_at_the_end_show_with_a_head_alone(kept):
    assert check_chain(ROWS[:kept]).broken is None
    assert "cut off" in broken_at(kept + 1, ROWS[:kept], head=ROWS[-1]["hash"])


def test_a_head_of_before_is_found_in_a_longer_chain():
    assert check_chain(ROWS, head=ROWS[2]["hash"]).broken is None


def moved(audit: AuditLog, ref: str, before: Mapping[str, str]) -> None:
    audit.done(audit.intend(Move("promote", "promote", ref, None, ref, "", {"champion": ref}), before))


def test_an_alias_moved_around_the_log_is_found(audit):
    moved(audit, "a@1", {})
    moved(audit, "b@1", {})
    found = verify(audit, lambda: {"a": {"champion": "a@2"}, "b": {"champion": "b@1"}})
    assert not found.whole
    assert found.chain.broken is None
    assert [(each.name, each.what, each.logged, each.found) for each in found.differences] == [
        ("a", "champion", ("a@1",), "a@2")
    ]
    assert found.to_json()["moved"] == [{"name": "a", "what": "champion", "logged": ["a@1"], "found": "a@2"}]


def test_a_model_that_is_gone_from_the_registry_is_found(small_audit):
    moved(small_audit, "a@1", {})
    (difference,) = verify(small_audit, dict).differences
    assert (difference.what, difference.found) == ("champion", None)


def test_what_the_log_does_not_know_yet_is_told_and_no_fault(small_audit):
    moved(small_audit, "a@1", {})
    found = verify(small_audit, lambda: {"a": {"champion": "a@1"}, "old": {"champion": "old@3"}, "new": {}})
    assert found.whole
    assert found.unaudited == ("old",)


def test_a_move_that_was_cut_off_is_told_and_no_fault(small_audit):
    intent = small_audit.intend(Move("promote", "promote", "a@1", None, "a@1", "", {"champion": "a@1"}), {})
    for standing in ({}, {"a": {"champion": "a@1"}}):
        found = verify(small_audit, lambda standing=standing: standing)
        assert found.whole
        assert found.unfinished == (intent,)
        assert found.to_json()["unfinished"][0]["seq"] == intent.seq


def test_without_a_registry_the_chain_alone_is_looked_at(small_audit):
    moved(small_audit, "a@1", {})
    assert verify(small_audit).to_json() == {
        "whole": True,
        "entries": 2,
        "head": small_audit.entries()[-1].hash,
        "broken": None,
        "moved": [],
        "unfinished": [],
        "unaudited": [],
    }


def test_of_a_broken_chain_nothing_is_concluded_about_aliases(small_audit):
    moved(small_audit, "a@1", {})

    def unasked() -> Any:
        raise AssertionError("the registry was read")

    found = verify(small_audit, unasked, head="f" * 64)
    assert not found.whole
    assert found.to_json()["broken"]["seq"] == 3
