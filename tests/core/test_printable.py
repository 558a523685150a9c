"""Text that would act on a terminal is shown instead."""

from __future__ import annotations

import json
import unicodedata

import pytest

from llmops.text_io import printable, printable_json


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
def test_what_acts_on_a_terminal_is_written_out_and_all_else_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_one_line_stays_one_line() -> None:
    assert printable("a\nb\tc\x85d", one_line=True) == r"a\nb\tc\x85d"


def test_no_control_character_is_left() -> None:
    every = "".join(map(chr, range(0x3000)))
    left = {character for character in printable(every) if unicodedata.category(character) == "Cc"}
    assert left == {"\n", "\t"}


def test_json_keeps_the_very_value() -> None:
    value = {"key\x7f": ["\x1b]0;title\x07", "\x9b", "\u202e", "é"]}
    text = printable_json(value)
    assert json.loads(text) == value
    assert printable(text) == text
