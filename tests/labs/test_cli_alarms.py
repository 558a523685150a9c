"""How `llmops lab` tells of an alarm: the whole reason, and what drifted."""

from __future__ import annotations

from labs.cli import _alarm_lines


def told(why: str, *drifted: str) -> list[str]:
    return list(_alarm_lines({"window": "2012-01", "why": why, "drifted": list(drifted)}))


def test_a_long_reason_is_told_whole_within_100_columns():
    why = " ".join(f"word-{number}" for number in range(60))
    lines = told(why)
    assert all(len(line) <= 100 for line in lines)
    assert " ".join(" ".join(lines).split()) == f"2012-01 {why}"


def test_six_drifted_columns_are_named_and_the_others_counted():
    assert told("the error rose", *"abcdefgh")[1] == f"{'':11}drifted: a, b, c, d, e, f and 2 more"


def test_columns_that_the_reason_names_are_not_named_again():
    assert len(told("the error rose; drifted: year, atemp", "year", "atemp")) == 1
    assert len(told("the error rose; drifted: year, atemp", "year", "temp")) == 2
