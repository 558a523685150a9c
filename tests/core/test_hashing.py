from __future__ import annotations

import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.hashing import canonical_json, content_hash, file_sha256, folder_sha256

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_keeps_the_value(value):
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2), st.randoms())
def test_the_order_of_keys_changes_nothing(values, chance):
    shuffled = list(values.items())
    chance.shuffle(shuffled)
    assert content_hash(dict(shuffled)) == content_hash(values)


@given(JSON, JSON)
def test_hashes_are_equal_exactly_when_the_canonical_texts_are(one, other):
    assert (content_hash(one) == content_hash(other)) == (canonical_json(one) == canonical_json(other))


def test_canonical_json_has_sorted_keys_no_spaces_and_plain_unicode():
    assert canonical_json({"b": [1, 2], "a": "é"}) == '{"a":"é","b":[1,2]}'


def test_a_content_hash_stays_what_it_was_in_earlier_versions():
    # Stored in registries and caches: a change here orphans what users have.
    assert content_hash({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.parametrize(("one", "other"), [(1, "1"), (None, "null"), ([], {}), ([1, 2], [2, 1]), (True, 1)])
def test_values_of_different_kinds_differ(one, other):
    assert content_hash(one) != content_hash(other)


def test_half_of_a_surrogate_pair_has_a_hash():
    # JSON files can hold one, so evaluation rows can.
    assert content_hash({"text": "\ud800"}) != content_hash({"text": "\ud801"})


def test_a_files_hash_is_of_all_its_bytes(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(content)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_text("1")
    (tmp_path / "sub" / "b").write_text("2")
    return tmp_path


def test_a_folders_hash_does_not_depend_on_its_place_or_times(folder, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copy")
    (copy / "sub").mkdir()
    (copy / "sub" / "b").write_text("2")
    (copy / "a").write_text("1")
    os.utime(copy / "a", (0, 0))
    assert folder_sha256(copy) == folder_sha256(folder)


@pytest.mark.parametrize("change", ["content", "name", "place", "more"])
def test_any_change_in_a_folder_changes_its_hash(folder, change):
    before = folder_sha256(folder)
    if change == "content":
        (folder / "sub" / "b").write_text("3")
    elif change == "name":
        (folder / "a").rename(folder / "c")
    elif change == "place":
        (folder / "a").rename(folder / "sub" / "a")
    else:
        (folder / "empty").touch()
    assert folder_sha256(folder) != before
