"""Decisions: what each policy comes to in each situation."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import BadFile
from monitoring.act.alarm_book import BookedAlarm
from monitoring.act.policy import WISHES, Policy, Situation, decide, read_policies
from monitoring.decide.result import Cure
from tests.monitoring.acting import START

CANARY = Situation("assistant@1", "assistant@2", "assistant@0", canary=0.1)
PROMOTED = Situation("assistant@2", None, "assistant@1", START - timedelta(hours=1))
ROLLBACK, STOP = Policy("rollback", dry_run=False), Policy("stop-canary", dry_run=False)
RETRAIN = Policy("retrain", dry_run=False, retrain_command=("true",))


def entry(number=1, release="assistant@2", **changed):
    made = BookedAlarm(
        id=number, app="assistant", release=release, what="output.refusal", kind="sequential", side="output",
        severity="high", slice={}, why="rose", rows=("r1",), cure=None, run_id=None, source="tick", first_at=START,
        last_at=START, times=1, told=1, acknowledged_at=None, acknowledged_by=None, resolved_at=None,
    )  # fmt: skip
    return replace(made, **changed)


ASKED = entry(2, what="input.length", side="input", kind="drift")
BOTH = [entry(1, "assistant@1"), entry(2)]
DRIFT = entry(side="input", kind="drift", release=None)


@pytest.mark.parametrize(
    ("alarms", "policy", "situation", "action"),
    [
        ([entry()], ROLLBACK, CANARY, "stop-canary assistant@2"),
        ([entry()], STOP, CANARY, "stop-canary assistant@2"),
        ([*BOTH, entry(3, kind="canary")], STOP, CANARY, "stop-canary assistant@2"),
        ([entry()], ROLLBACK, PROMOTED, "rollback assistant@2"),
        ([entry(1, "assistant@1")], ROLLBACK, CANARY, "rollback assistant@1"),
        ([entry(1), ASKED, entry(3, kind="drift", cure=Cure(True, "like questions"))], ROLLBACK, PROMOTED,
         "rollback assistant@2"),
        ([entry()], replace(ROLLBACK, only_for=("sequential",)), PROMOTED, "rollback assistant@2"),
        ([DRIFT], RETRAIN, replace(PROMOTED, previous=None), "retrain assistant@2"),
        ([DRIFT], replace(RETRAIN, action="re-evaluate"), replace(PROMOTED, previous=None), "re-evaluate assistant@2"),
    ],
)  # fmt: skip
def test_a_policy_acts_on_what_it_can_cure(alarms, policy, situation, action):
    decision = decide("assistant", alarms, policy, situation)
    assert f"{decision.action} {decision.release}" == action


@pytest.mark.parametrize(
    ("alarms", "policy", "situation", "why"),
    [
        ([entry()], Policy(), CANARY, "observe"),
        (BOTH, STOP, CANARY, "as well"),
        ([entry(side="input", what="input.length")], STOP, CANARY, "not why"),
        ([entry()], STOP, replace(CANARY, canary=0.0), "nothing to stop"),
        ([entry()], STOP, PROMOTED, "no challenger"),
        ([entry(release="assistant@1")], ROLLBACK, PROMOTED, "no alarm is known to concern"),
        ([entry(release="assistant@7")], ROLLBACK, PROMOTED, "no alarm is known to concern"),
        ([entry(release=None)], ROLLBACK, PROMOTED, "no alarm is known to concern"),
        ([entry(side="input", kind="drift")], ROLLBACK, PROMOTED, "no rollback cures"),
        ([entry(kind="drift", cure=Cure(False, "explained by them"))], ROLLBACK, PROMOTED, "explained by them"),
        ([entry(1), ASKED], ROLLBACK, PROMOTED, "may be no cure"),
        ([entry()], ROLLBACK, replace(PROMOTED, previous=None), "no previous"),
        ([entry()], ROLLBACK, replace(PROMOTED, previous=None, no_return="itself rolled back"), "itself rolled back"),
        ([entry()], ROLLBACK, replace(PROMOTED, champion_since=START + timedelta(seconds=1)), "before"),
        ([entry()], replace(ROLLBACK, only_for=("error",)), PROMOTED, "policy is for"),
        ([entry(acknowledged_at=START)], ROLLBACK, PROMOTED, "no open alarm"),
        ([entry(release="assistant@1")], RETRAIN, PROMOTED, "no alarm concerns"),
        ([entry(release="assistant@1")], replace(RETRAIN, action="re-evaluate"), PROMOTED, "no alarm concerns"),
    ],
)
def test_a_policy_does_nothing_and_says_why(alarms, policy, situation, why):
    decision = decide("assistant", alarms, policy, situation)
    assert decision.action is None
    assert why in decision.why


def test_the_key_names_the_first_alarm_and_dry_runs_have_keys_of_their_own():
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
def test_whatever_comes_the_rules_hold(alarms, wish, situation):
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


def test_policies_are_read():
    read = read_policies({"assistant": {"action": "rollback", "dry_run": False, "only_for": ["limit"]}}, "m.toml")
    assert read == {"assistant": Policy("rollback", False, ("limit",))}
    assert read_policies({"a": {}}, "m.toml") == {"a": Policy()}


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"acton": "rollback"}, "acton: unknown key; did you mean action"),
        ({"action": "roll-back"}, "action: must be 'observe', .*'rollback'.*, not 'roll-back'"),
        ({"dry_run": "no"}, "dry_run: must be true or false, not 'no'"),
        ({"action": "retrain"}, "retrain_command: the action retrain needs it .* or a recipe"),
        ({"action": "retrain", "retrain_command": ["a"], "recipe": "b"}, "recipe: takes the place of retrain_command"),
        ({"retrain_timeout": "soon"}, "retrain_timeout: 'soon' is no duration"),
    ],
)
def test_a_wrong_policy_is_an_error_that_names_file_app_and_key(table, problem):
    with pytest.raises(BadFile, match=rf"m\.toml: policy\.assistant: {problem}"):
        read_policies({"assistant": table}, "m.toml")
