import pytest

from monitoring.decide.alarms import Alarm
from monitoring.decide.result import cure_of, sides_of


def alarm(what, side, kind="drift", severity="high", explained=None):
    return Alarm(what, "because", side, ({"app": "assistant"},), kind, severity, explained)


REFUSAL = alarm("output.refusal", "output")
LENGTH = alarm("input.length", "input", severity="medium")
LATENCY = alarm("latency_ms", "service", severity="medium")


@pytest.mark.parametrize(
    ("alarms", "helps", "why"),
    [
        ([], False, "no alarm"),
        ([LENGTH], False, "the questions changed (input.length)"),
        ([REFUSAL], True, "output.refusal changed while the questions did not"),
        ([REFUSAL, LENGTH], False, "cannot be told"),
        ([alarm("output.length", "output", explained=True), LENGTH], False, "which explains output.length"),
        ([alarm("output.refusal", "output", explained=False), LENGTH], True, "among like questions, too"),
        ([alarm("rows", "service", "volume")], False, "the amount of traffic"),
        ([alarm("output.refusal", "output", "canary")], True, "worse than the champion on the same traffic"),
        ([alarm("output.refusal", "output", "limit"), LATENCY], True, "output.refusal, latency_ms"),
    ],
)
def test_a_rollback_cures_changed_answers_but_no_changed_questions(alarms, helps, why):
    cure = cure_of(alarms, same_release=False)
    assert (cure.helps, why in cure.why) == (helps, True)
    assert cure.to_json() == {"rollback": helps, "why": cure.why}


def test_a_slower_service_under_the_same_release_is_not_the_releases_doing():
    assert not cure_of([LATENCY], same_release=True).helps
    assert cure_of([LATENCY], same_release=False).helps
    assert "the release is the same" in cure_of([REFUSAL], same_release=True).why


def test_questions_that_were_not_compared_are_not_said_to_be_the_same():
    longer = alarm("output.length", "output", severity="medium")
    assert not cure_of([longer], same_release=False, questions=None).helps
    cure = cure_of([longer, REFUSAL], same_release=False, questions=None)
    assert cure.helps
    assert "output.refusal changed; the questions were not compared" in cure.why


def test_questions_that_changed_without_an_alarm_count():
    refusal = alarm("output.refusal", "output", explained=True)
    cure = cure_of([refusal], same_release=False, questions=["input.language"])
    assert not cure.helps
    assert "the questions changed (input.language), which explains output.refusal" in cure.why


def test_traffic_is_on_no_side():
    assert sides_of([REFUSAL, LENGTH, alarm("rows", "service", "volume")]) == ["input", "output"]
