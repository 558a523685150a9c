"""Text files are read strictly, and errors name the place; text that would act on a terminal is shown instead."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from llmops.prompt_file import load_prompt_folder
from llmops.text_io import json_object, numbered_lines, printable, printable_json, read_json, read_text, read_toml

MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(MARK + b"a = 1\n")
    assert (read_text(path), read_toml(path)) == ("a = 1\n", {"a": 1})
    path.write_bytes(MARK + b'{"a": 1}')
    assert read_json(path) == {"a": 1}
    (tmp_path / "v1.md").write_bytes(MARK + b"---\ninput_variable: q\n---\n# user\n{{ q }}\n")
    assert [template.input_variable for _, template in load_prompt_folder(tmp_path)] == ["q"]


def test_what_is_no_toml_is_a_bad_file(tmp_path):
    (tmp_path / "no-utf8.toml").write_bytes(b"\xff")
    (tmp_path / "cut-off.toml").write_bytes(b"a = ")
    for name in ("no-utf8", "cut-off", "absent"):
        with pytest.raises(BadFile) as caught:
            read_toml(tmp_path / f"{name}.toml")
        assert caught.value.path == tmp_path / f"{name}.toml"
        assert "\n" not in str(caught.value)


def test_lines_have_their_numbers_in_the_file_and_blank_ones_are_left_out(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"one\r\n\n  \t\ntwo\nthree")
    assert list(numbered_lines(tmp_path / "x.jsonl")) == [(1, b"one"), (4, b"two"), (5, b"three")]
    for absent in ("absent.jsonl", "."):
        with pytest.raises(BadFile, match="cannot be read"):
            list(numbered_lines(tmp_path / absent))


@given(st.lists(st.dictionaries(st.text(), st.text())))
def test_what_was_written_as_one_object_a_line_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    texts = [json.dumps(row, ensure_ascii=False).encode(errors="replace") for row in rows]
    path.write_bytes(b"\n".join(texts))
    read = [json_object(line, path, number) for number, line in numbered_lines(path)]
    assert read == [json.loads(text) for text in texts]


def test_bytes_that_are_no_utf8_are_named_by_their_line_and_end_no_others(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(MARK + b'{"a": 1}\n\n{"a": "\xff"}\n{"a": 2}')
    (first, *_), (number, bad), (_, last) = numbered_lines(path)
    with pytest.raises(BadFile, match="is no UTF-8") as caught:
        json_object(bad, path, number)
    assert (first, caught.value.line, json_object(last, path, 4)) == (1, 3, {"a": 2})


@pytest.mark.parametrize(
    ("line", "field", "problem"),
    [
        ("{", None, "not JSON"),
        ("[1]", None, "must be a JSON object"),
        ("3", None, "object"),
        # What only Python takes for JSON:
        ('{"a": NaN}', "a", "is NaN"),
        ('{"a": {"b": [1, -Infinity]}}', "a.b[1]", "is -Infinity"),
        ('{"a": 1e400}', "a", "too large"),
        ('{"a": {"b": 1, "b": 1}}', "a.b", "stands twice"),
        ('{"a": [{"b": 1, "c": NaN, "b": 2}]}', "a[0].b", "stands twice"),
        ("[" * 100_000, None, "not JSON"),
        (f'{{"a": {"9" * 5000}}}', None, "not JSON"),
    ],
)
def test_a_line_that_is_no_object_is_named_by_its_place(line, field, problem):
    with pytest.raises(BadFile, match=problem) as caught:
        json_object(line, "x.jsonl", 7)
    assert (caught.value.line, caught.value.field) == (7, field)


def test_a_flaw_in_a_json_file_of_many_lines_is_named_by_its_line(tmp_path):
    (tmp_path / "x.json").write_text('{\n "a": 1,\n}\n')
    with pytest.raises(BadFile) as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.line == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("over\rwritten", "over\\rwritten"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202etxt.exe", "\\u202etxt.exe"),
        ("\ud83d", "\\ud83d"),
        ("a\nb\tc", "a\nb\tc"),
        ("日本語 é 👩‍🚀 [/x]", "日本語 é 👩‍🚀 [/x]"),
    ],
)
def test_what_acts_on_a_terminal_is_written_out_and_all_else_stays(text, shown):
    assert printable(text) == shown


def test_no_control_character_is_left_and_json_keeps_the_very_value():
    assert printable("a\nb\tc\x85d", one_line=True) == r"a\nb\tc\x85d"
    every = "".join(map(chr, range(0x3000)))
    left = {character for character in printable(every) if unicodedata.category(character) == "Cc"}
    assert left == {"\n", "\t"}
    value = {"key\x7f": ["\x1b]0;title\x07", "\x9b", "\u202e", "é"]}
    text = printable_json(value)
    assert json.loads(text) == value
    assert printable(text) == text
