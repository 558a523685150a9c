"""Feedback as a descriptor, and what becomes of it when it comes late."""

from datetime import UTC, datetime, timedelta

import pytest

from llmops.production_log import Feedback
from monitoring import pin_reference, run_monitor

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SINCE, UNTIL = START + 200 * MINUTE, START + 400 * MINUTE


@pytest.fixture
def settings(few_descriptors):
    return few_descriptors


def say(log, records, score):
    """Gives each answer a score; None for none."""
    for number, record in enumerate(records):
        if (given := score(number)) is not None:
            log.add_feedback(
                Feedback(record.request_id, record.key, "tester", "assistant", record.release, score=given)
            )


def good(_number):
    return 1.0


def mixed(number):
    return 1.0 if number % 2 else -1.0


def test_feedback_is_a_descriptor_of_the_output(settings, log, make_records):
    records = make_records(400)
    log.append(records)
    say(log, records[140:200], good)
    say(log, records[200:260], mixed)
    found = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert "feedback.score" in {alarm.what for alarm in found.alarms}
    assert found.to_json()["feedback"] == {"scores": 60, "mean_score": 0.0, "labels": {}}


def test_feedback_that_comes_after_the_pin_is_no_part_of_the_reference_until_it_is_pinned_again(
    settings, log, make_records
):
    records = make_records(400)
    log.append(records)
    assert run_monitor(settings, "assistant", SINCE, UNTIL).not_compared == ()
    say(log, records[140:200], good)
    say(log, records[200:260], mixed)
    late = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert (late.state, late.not_compared) == ("ok", ("feedback.score",))
    pin_reference(settings, "assistant", START, SINCE, "with what was said since")
    again = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert ([alarm.what for alarm in again.alarms], again.not_compared) == (["feedback.score"], ())


def test_feedback_that_comes_after_its_window_was_judged_is_seen_with_the_next_or_when_asked_again(
    settings, log, make_records
):
    records = make_records(400)
    log.append(records)
    say(log, records[140:200], good)
    middle = SINCE + 100 * MINUTE
    assert run_monitor(settings, "assistant", SINCE, middle).state == "ok"
    say(log, records[200:260], mixed)
    following = run_monitor(settings, "assistant", middle, UNTIL)
    again = run_monitor(settings, "assistant", SINCE, middle)
    assert [alarm.what for alarm in following.alarms] == ["feedback.score"]
    assert [alarm.what for alarm in again.alarms] == ["feedback.score"]
