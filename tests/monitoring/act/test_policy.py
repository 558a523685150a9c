"""Decisions: what each policy comes to in each situation."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from monitoring.act.alarm_book import Cure, Entry
from monitoring.act.policy import WISHES, Policy, Situation, decide, read_policies
from tests.monitoring.acting import START

CANARY = Situation("assistant@1", "assistant@2", "assistant@0", canary=0.1)
PROMOTED = Situation("assistant@2", None, "assistant@1", START - timedelta(hours=1))
ROLLBACK, STOP = Policy("rollback", dry_run=False), Policy("stop-canary", dry_run=False)


def entry(number: int = 1, release: str | None = "assistant@2", **changed: Any) -> Entry:
    made = Entry(
        id=number, app="assistant", release=release, what="output.refusal", kind="sequential", side="output",
        severity="high", slice={}, why="rose", rows=("r1",), cure=None, run_id=None, source="tick", first_at=START,
        last_at=START, times=1, told=1, acknowledged_at=None, acknowledged_by=None, resolved_at=None,
    )  # fmt: skip
    return replace(made, **changed)


def action(alarms: list[Entry], policy: Policy, situation: Situation) -> tuple[str | None, str]:
    decision = decide("assistant", alarms, policy, situation)
    return decision.action, decision.release


def why(alarms: list[Entry], policy: Policy, situation: Situation) -> str:
    decision = decide("assistant", alarms, policy, situation)
    assert decision.action is None
    return decision.why


def test_to_observe_is_the_default_and_does_nothing() -> None:
    assert "observe" in why([entry()], Policy(), CANARY)


@pytest.mark.parametrize("policy", [ROLLBACK, STOP])
def test_a_canary_is_stopped_when_the_challengers_arm_alarms(policy: Policy) -> None:
    assert action([entry()], policy, CANARY) == ("stop-canary", "assistant@2")


def test_a_canary_is_not_stopped_for_what_shows_in_the_champions_arm_too() -> None:
    both = [entry(1, "assistant@1"), entry(2)]

    assert "as well" in why(both, STOP, CANARY)
    assert action([*both, entry(3, kind="canary")], STOP, CANARY) == ("stop-canary", "assistant@2")


def test_a_canary_is_not_stopped_for_the_questions_it_gets() -> None:
    assert "not why" in why([entry(side="input", what="input.length")], STOP, CANARY)


def test_a_challenger_without_traffic_is_left_alone() -> None:
    assert "nothing to stop" in why([entry()], STOP, replace(CANARY, canary=0.0))


def test_stop_canary_never_rolls_back() -> None:
    assert "no challenger" in why([entry()], STOP, PROMOTED)


def test_a_champion_that_alarms_is_rolled_back() -> None:
    assert action([entry()], ROLLBACK, PROMOTED) == ("rollback", "assistant@2")


def test_a_champion_that_alarms_beside_a_canary_is_rolled_back() -> None:
    assert action([entry(1, "assistant@1")], ROLLBACK, CANARY) == ("rollback", "assistant@1")


@pytest.mark.parametrize("release", ["assistant@1", "assistant@7", None])
def test_an_alarm_that_is_not_the_present_champions_rolls_nothing_back(release: str | None) -> None:
    assert "no alarm is known to concern" in why([entry(release=release)], ROLLBACK, PROMOTED)


def test_input_drift_rolls_nothing_back() -> None:
    assert "no rollback cures" in why([entry(side="input", kind="drift")], ROLLBACK, PROMOTED)


def test_a_verdict_that_says_a_rollback_cannot_help_is_heeded() -> None:
    found = entry(kind="drift", cure=Cure(False, "the questions explain it"))

    assert "the questions explain it" in why([found], ROLLBACK, PROMOTED)


def test_where_nobody_judged_changed_questions_are_reason_to_doubt() -> None:
    asked = entry(2, what="input.length", side="input", kind="drift")

    assert "may be no cure" in why([entry(1), asked], ROLLBACK, PROMOTED)
    judged = entry(3, kind="drift", cure=Cure(True, "like questions"))
    assert action([entry(1), asked, judged], ROLLBACK, PROMOTED) == ("rollback", "assistant@2")


def test_without_a_previous_release_nothing_is_rolled_back() -> None:
    assert "no previous" in why([entry()], ROLLBACK, replace(PROMOTED, previous=None))
    gone = replace(PROMOTED, previous=None, no_return="assistant@1 was itself rolled back")
    assert "itself rolled back" in why([entry()], ROLLBACK, gone)


def test_an_alarm_from_before_the_champions_present_term_rolls_nothing_back() -> None:
    later = replace(PROMOTED, champion_since=START + timedelta(seconds=1))

    assert "before" in why([entry()], ROLLBACK, later)


def test_a_policy_may_be_for_some_descriptors_or_kinds_alone() -> None:
    for_errors = replace(ROLLBACK, only_for=("error",))
    for_kind = replace(ROLLBACK, only_for=("sequential",))

    assert "policy is for" in why([entry()], for_errors, PROMOTED)
    assert action([entry()], for_kind, PROMOTED) == ("rollback", "assistant@2")


def test_an_alarm_that_somebody_sees_to_is_left_to_them() -> None:
    assert "no open alarm" in why([entry(acknowledged_at=START)], ROLLBACK, PROMOTED)


@pytest.mark.parametrize("wish", ["re-evaluate", "retrain"])
def test_looking_into_it_needs_the_champion_alone(wish: Any) -> None:
    policy = Policy(wish, dry_run=False, retrain_command=("true",))
    drift = entry(side="input", kind="drift", release=None)

    assert action([drift], policy, replace(PROMOTED, previous=None)) == (wish, "assistant@2")
    assert "no alarm concerns" in why([entry(release="assistant@1")], policy, PROMOTED)


def test_the_key_names_the_first_alarm_and_dry_runs_have_keys_of_their_own() -> None:
    decision = decide("assistant", [entry(9, what="error"), entry(4)], ROLLBACK, PROMOTED)

    assert decision.key == "assistant/rollback/assistant@2/4"
    assert decide("assistant", [entry(4)], Policy("rollback"), PROMOTED).key.endswith("/4/dry-run")


SIDES = st.sampled_from(["input", "output", "service"])
RELEASES = st.sampled_from([None, "assistant@0", "assistant@1", "assistant@2"])
KINDS = st.sampled_from(["drift", "sequential", "limit", "canary"])
ENTRIES = st.lists(
    st.builds(
        lambda side, release, kind, helps: entry(
            1, release, side=side, kind=kind, cure=None if helps is None else Cure(helps, "judged")
        ),
        SIDES, RELEASES, KINDS, st.none() | st.booleans(),
    )
)  # fmt: skip


@given(
    ENTRIES,
    st.sampled_from(WISHES),
    st.builds(Situation, RELEASES, RELEASES, RELEASES, canary=st.sampled_from([0.0, 0.1])),
)
def test_whatever_comes_the_rules_hold(alarms: list[Entry], wish: Any, situation: Situation) -> None:
    alarms = [replace(alarm, id=number) for number, alarm in enumerate(alarms, 1)]
    policy = Policy(wish, retrain_command=("true",))

    decision = decide("assistant", alarms, policy, situation)

    assert decision.why
    if decision.action is None:
        assert not decision.alarms
        return
    assert decision.dry_run
    assert decision.action == wish or (wish == "rollback" and decision.action == "stop-canary")
    if decision.action == "rollback":
        assert situation.previous is not None
        assert decision.release == situation.champion
        assert all(alarm.side != "input" and alarm.release == situation.champion for alarm in decision.alarms)
        assert all(alarm.cure is None or alarm.cure.helps for alarm in decision.alarms)
    if decision.action == "stop-canary":
        assert situation.canary
        assert all(alarm.release == situation.challenger != None for alarm in decision.alarms)  # noqa: E711


def test_policies_are_read_strictly() -> None:
    read = read_policies({"assistant": {"action": "rollback", "dry_run": False, "only_for": ["limit"]}}, "m.toml")
    assert read == {"assistant": Policy("rollback", False, ("limit",))}
    assert read_policies({"a": {}}, "m.toml") == {"a": Policy()}

    for table, problem in (
        ({"acton": "rollback"}, "did you mean action"),
        ({"action": "roll-back"}, "rollback"),
        ({"dry_run": "no"}, "true or false"),
        ({"action": "retrain"}, "retrain_command"),
        ({"retrain_timeout": "soon"}, "no duration"),
    ):
        with pytest.raises(BadFile, match=problem):
            read_policies({"assistant": table}, "m.toml")
