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


@given(JSON, JSON, st.randoms())
def test_canonical_json_keeps_the_value_whatever_the_order_of_keys_and_decides_the_hash(one, other, chance):
    assert json.loads(canonical_json(one)) == one
    if isinstance(one, dict):
        shuffled = list(one.items())
        chance.shuffle(shuffled)
        assert content_hash(dict(shuffled)) == content_hash(one)
    assert (content_hash(one) == content_hash(other)) == (canonical_json(one) == canonical_json(other))


def test_a_content_hash_stays_what_it_was_in_earlier_versions():
    assert canonical_json({"b": [1, 2], "a": "é"}) == '{"a":"é","b":[1,2]}'
    # Stored in registries and caches: a change here orphans what users have.
    assert content_hash({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_values_that_differ_have_other_hashes():
    # JSON files can hold half of a surrogate pair, so evaluation rows can.
    halves = ({"text": "\ud800"}, {"text": "\ud801"})
    for one, other in ((1, "1"), (None, "null"), ([], {}), ([1, 2], [2, 1]), (True, 1), halves):
        assert content_hash(one) != content_hash(other)


def folder_of(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "same"),
    [
        ({"sub/b": "2", "a": "1"}, True),  # elsewhere, and written in another order
        ({"a": "1", "sub/b": "3"}, False),
        ({"c": "1", "sub/b": "2"}, False),
        ({"sub/a": "1", "sub/b": "2"}, False),
        ({"a": "1", "sub/b": "2", "empty": ""}, False),
    ],
)
def test_a_folders_hash_depends_on_names_places_and_content_alone(tmp_path, tmp_path_factory, files, same):
    before = folder_sha256(folder_of(tmp_path, {"a": "1", "sub/b": "2"}))
    other = folder_of(tmp_path_factory.mktemp("other"), files)
    os.utime(other / next(iter(files)), (0, 0))
    assert (folder_sha256(other) == before) is same


def test_a_files_hash_is_of_all_its_bytes(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "f").write_bytes(content)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()
