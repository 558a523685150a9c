from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmops.factsheet.contents import Move
from llmops.factsheet.history import periods_of


def move(at: int, old: str | None, new: str | None, what: str = "promote", why: str = "gate passed") -> Move:
    return Move(f"2026-05-{at:02}", what, old, new, why, forced=why != "gate passed" and what == "promote")


def test_a_promotion_begins_a_time_and_the_next_one_ends_it():
    moves = [move(1, None, "a@1"), move(3, "a@1", "a@2")]
    (first,) = periods_of("a@1", moves, is_champion=False)
    (second,) = periods_of("a@2", moves, is_champion=True)
    assert (first.since, first.until, first.lasts, first.ended, first.then) == (
        "2026-05-01", "2026-05-03", False, "promote", "a@2",
    )  # fmt: skip
    assert (second.since, second.until, second.lasts, second.after) == ("2026-05-03", None, True, "a@1")


def test_a_rollback_ends_one_and_begins_another():
    moves = [move(1, None, "a@1"), move(2, "a@1", "a@2"), move(4, "a@2", "a@1", "rollback", "rolled back")]
    first, again = periods_of("a@1", moves, is_champion=True)
    assert (first.lasts, again.lasts, again.began) == (False, True, "rollback")
    (rolled_back,) = periods_of("a@2", moves, is_champion=False)
    assert (rolled_back.ended, rolled_back.then) == ("rollback", "a@1")


def test_a_promotion_without_a_passing_gate_is_forced():
    (period,) = periods_of("a@1", [move(1, None, "a@1", why="hot fix")], is_champion=True)
    assert period.forced
    assert period.why == "hot fix"
    assert not periods_of("a@1", [move(1, None, "a@1")], is_champion=True)[0].forced


def test_other_moves_are_none_of_its_times():
    moves = [move(1, None, "a@1", "challenge"), move(2, "off", "canary 20 %", "traffic")]
    assert periods_of("a@1", moves, is_champion=False) == ()


def test_a_beginning_that_fell_out_of_the_record_is_not_made_up():
    (period,) = periods_of("a@1", [move(5, "a@1", "a@2")], is_champion=False)
    assert (period.since, period.until) == (None, "2026-05-05")
    (lasting,) = periods_of("a@1", [], is_champion=True)
    assert (lasting.since, lasting.lasts) == (None, True)


def test_an_alias_moved_without_a_record_ends_the_time_at_nobody_knows_when():
    (period,) = periods_of("a@1", [move(1, None, "a@1")], is_champion=False)
    assert (period.lasts, period.until, period.ended) == (False, None, "")


def test_what_was_found_without_a_record_begins_and_ends_at_nobody_knows_when():
    moves = [move(1, None, "a@1"), move(3, None, "a@2", "found"), move(4, None, "a@2", "found"), move(5, "a@2", "a@1")]
    first, again = periods_of("a@1", moves, is_champion=True)
    assert (first.since, first.until, first.lasts) == ("2026-05-01", None, False)
    assert again.since == "2026-05-05"
    (between,) = periods_of("a@2", moves, is_champion=False)
    assert (between.since, between.until, between.then) == (None, "2026-05-05", "a@1")


@given(st.lists(st.sampled_from(["a@1", "a@2", "a@3"]), max_size=12))
def test_times_of_all_versions_take_turns_without_a_gap(order):
    champions = [ref for place, ref in enumerate(order) if place == 0 or ref != order[place - 1]]
    moves = [move(day + 1, old, new) for day, (old, new) in enumerate(zip([None, *champions], champions, strict=False))]
    found = [
        (period.since or "", ref, period.until)
        for ref in ("a@1", "a@2", "a@3")
        for period in periods_of(ref, moves, is_champion=bool(champions) and champions[-1] == ref)
    ]
    found.sort()
    assert [ref for _, ref, _ in found] == champions
    assert [until for _, _, until in found[:-1]] == [since for since, _, _ in found[1:]]
    assert not found or found[-1][2] is None
