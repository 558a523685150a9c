from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile, UsageError
from monitoring.tables import Table, read_dataclass


@dataclass(frozen=True)
class Rule:
    name: str
    share: float = 0.5
    rows: int = 3
    strict: bool = False

    def __post_init__(self):
        if self.share > 1:
            raise UsageError("share: is above 1")


def read(**values):
    return read_dataclass(Rule, values, "monitor.toml", "rule 1")


def test_a_table_becomes_the_dataclass_with_its_defaults_and_what_is_no_table_is_refused():
    assert read(name="a", share=1) == Rule("a", 1)
    with pytest.raises(BadFile, match="must be a table"):
        read_dataclass(Rule, [1], "monitor.toml", "rule 1")


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "rule 1: name: is missing"),
        ({"name": "a", "shore": 1}, "rule 1: shore: unknown key; did you mean share?"),
        ({"name": "a", "share": "half"}, "rule 1: share: must be a number, not 'half'"),
        ({"name": "a", "rows": 1.5}, "rule 1: rows: must be a whole number, not 1.5"),
        ({"name": "a", "strict": 1}, "rule 1: strict: must be true or false, not 1"),
        ({"name": "a", "share": 2}, "rule 1: share: is above 1"),
    ],
)
def test_a_wrong_table_is_an_error_that_names_file_and_key(values, problem):
    with pytest.raises(BadFile) as caught:
        read(**values)
    assert str(caught.value) == f"monitor.toml: {problem}"


@pytest.mark.parametrize(
    ("reader", "value"),
    [
        ("text", ""), ("text", 3), ("texts", []), ("texts", ["a", 3]), ("texts", 3), ("switch", "true"),
        ("number", True), ("number", 11), ("whole", 2.0), ("whole", -1), ("mapping", [1]), ("path", "absent.txt"),
    ],
)  # fmt: skip
def test_readers_refuse_what_they_are_not_for(reader, value):
    table = Table({"key": value}, "monitor.toml", "table")
    bounds = {"least": 0, "most": 10} if reader in ("number", "whole") else {}
    with pytest.raises(BadFile, match=r"monitor\.toml: table: key: "):
        getattr(table, reader)("key", **bounds)


def test_a_path_starts_at_the_files_folder(tmp_path):
    (tmp_path / "words.txt").write_text("a")
    assert Table({"words": "words.txt"}, tmp_path / "monitor.toml", "t").path("words") == tmp_path / "words.txt"


@given(st.dictionaries(st.text(min_size=1), st.integers(), min_size=1))
def test_every_key_that_nobody_reads_is_refused(values):
    with pytest.raises(BadFile, match="unknown key"), Table(values, "monitor.toml", "t"):
        pass
