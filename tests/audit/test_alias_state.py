"""How aliases stand by the entries, and what the log says before and after a move."""

from __future__ import annotations

from collections.abc import Mapping

from llmops.audit import AuditLog, Draft, Move
from llmops.audit.entries import Difference, Replay

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
