"""Entries: what is hashed, and what can be stored."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.audit import AuditEntry, Draft
from llmops.audit.entries import NO_ENTRY
from llmops.errors import Corrupted

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
