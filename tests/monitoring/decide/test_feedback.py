"""Feedback as a descriptor, and what becomes of it when it comes late."""

import pytest

from llmops.production_log import Feedback
from monitoring.run import pin_reference, run_monitor
from tests.moments import MINUTE, START

SINCE, UNTIL = START + 200 * MINUTE, START + 400 * MINUTE


@pytest.fixture
def settings(few_descriptors):
    return few_descriptors


def say(log, records, score):
    """Gives each answer the score of its number."""
    for number, record in enumerate(records):
        given = Feedback(record.request_id, record.key, "tester", "assistant", record.release, score=score(number))
        log.add_feedback(given)


def say_good_then_mixed(log, records):
    """Of the reference's last answers all is well, of the window's first ones half."""
    say(log, records[140:200], lambda _: 1.0)
    say(log, records[200:260], lambda number: 1.0 if number % 2 else -1.0)


@pytest.fixture
def records(log, make_records):
    records = make_records(400)
    log.append(records)
    return records


def test_feedback_is_a_descriptor_of_the_output(settings, log, records):
    say_good_then_mixed(log, records)
    found = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert "feedback.score" in {alarm.what for alarm in found.alarms}
    assert found.to_json()["feedback"] == {"scores": 60, "mean_score": 0.0, "labels": {}}


def test_feedback_that_comes_after_the_pin_is_no_part_of_the_reference_until_it_is_pinned_again(settings, log, records):
    assert run_monitor(settings, "assistant", SINCE, UNTIL).not_compared == ()
    say_good_then_mixed(log, records)
    late = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert (late.state, late.not_compared) == ("ok", ("feedback.score",))
    pin_reference(settings, "assistant", START, SINCE, "with what was said since")
    again = run_monitor(settings, "assistant", SINCE, UNTIL)
    assert ([alarm.what for alarm in again.alarms], again.not_compared) == (["feedback.score"], ())


def test_feedback_that_comes_after_its_window_was_judged_is_seen_with_the_next_or_when_asked_again(
    settings, log, records
):
    say(log, records[140:200], lambda _: 1.0)
    middle = SINCE + 100 * MINUTE
    assert run_monitor(settings, "assistant", SINCE, middle).state == "ok"
    say(log, records[200:260], lambda number: 1.0 if number % 2 else -1.0)
    following = run_monitor(settings, "assistant", middle, UNTIL)
    again = run_monitor(settings, "assistant", SINCE, middle)
    assert [alarm.what for alarm in following.alarms] == ["feedback.score"]
    assert [alarm.what for alarm in again.alarms] == ["feedback.score"]
