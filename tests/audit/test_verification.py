"""Verification finds whatever was done to a chain, and names the first entry at which it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.audit import AuditEntry, AuditLog, Draft, Move, check_chain, verify
from tests.audit.conftest import chain

LENGTH = 6
FIELDS = ("at", "actor", "action", "subject", "details", "previous", "hash")
ROWS = chain(LENGTH)


def test_a_whole_chain_has_a_head():
    found = check_chain(ROWS)
    assert (found.entries, found.head, found.broken) == (LENGTH, ROWS[-1]["hash"], None)
    assert check_chain([]).head is None


@given(st.integers(0, LENGTH - 1), st.sampled_from(FIELDS), st.text(max_size=5))
def test_an_altered_entry_is_named(place, field, text):
    altered = [dict(row) for row in ROWS]
    altered[place][field] = f"{altered[place][field]}{text}."
    broken = check_chain(altered).broken
    assert broken is not None
    assert broken.seq == place + 1
    assert "altered" in broken.why


@given(st.integers(0, LENGTH - 1))
def test_an_altered_entry_with_a_new_hash_shows_at_the_next_or_at_the_head(place):
    altered = [dict(row) for row in ROWS]
    forged = AuditEntry.from_row({**altered[place], "actor": "nobody"})
    altered[place] = {**forged.to_row(), "hash": forged.expected_hash()}
    broken = check_chain(altered, head=ROWS[-1]["hash"]).broken
    assert broken is not None
    assert broken.seq == place + 2


@given(st.integers(0, LENGTH - 2))
def test_a_removed_entry_is_named(place):
    removed = [*ROWS[:place], *ROWS[place + 1 :]]
    closed_up = [{**row, "seq": number} for number, row in enumerate(removed, 1)]
    for rows in (removed, closed_up):
        broken = check_chain(rows).broken
        assert broken is not None
        assert broken.seq == place + 1


@given(st.integers(0, LENGTH - 1), st.integers(0, LENGTH - 1))
def test_an_inserted_entry_is_named(place, copied):
    inserted = [*ROWS[:place], ROWS[copied], *ROWS[place:]]
    rows = [{**row, "seq": number} for number, row in enumerate(inserted, 1)]
    broken = check_chain(rows).broken
    assert broken is not None
    assert broken.seq == (place + 2 if copied == place else place + 1)


def test_a_forged_entry_that_follows_well_shows_where_the_old_one_goes_on():
    before = AuditEntry.from_row(ROWS[1])
    forged = AuditEntry.chained(before, "now", "nobody", Draft("promote", "app@9")).to_row()
    shifted = [{**row, "seq": row["seq"] + 1} for row in ROWS[2:]]
    broken = check_chain([*ROWS[:2], forged, *shifted]).broken
    assert broken is not None
    assert broken.seq == 4


@pytest.mark.parametrize("kept", range(LENGTH))
def test_entries_cut_off_at_the_end_show_with_a_head_alone(kept):
    assert check_chain(ROWS[:kept]).broken is None
    broken = check_chain(ROWS[:kept], head=ROWS[-1]["hash"]).broken
    assert broken is not None
    assert broken.seq == kept + 1
    assert "cut off" in broken.why


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
