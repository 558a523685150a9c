"""Detectors kept in a database and advanced over what is read of the log, by one monitor or by two."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from monitoring.decide.detector_store import DetectorStore
from monitoring.decide.pinned_summaries import WHOLE, PinnedSummaries
from monitoring.decide.rules import DriftRules
from monitoring.decide.watch import DetectorSpec, advance_detectors, findings
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, Summary
from tests.moments import DAY, HOUR

BEGIN = datetime(2026, 1, 10, 6, tzinfo=UTC)
REFUSAL = Descriptor("output.refusal", "flag", "output", harmful=True)
DESCRIPTORS = {"output.refusal": REFUSAL, "output.link": Descriptor("output.link", "flag", "output")}


def refusals(rows, hits):
    return Summary(rows=rows, flags={"output.refusal": FlagSummary(rows, hits)})


def reference(rows=1000, hits=50):
    """The same for every slice, as releases are compared with all rows of a reference."""
    return PinnedSummaries({WHOLE: refusals(rows, hits)})


class Traffic:
    """Forty rows an hour of each release; its share of refusals, and from which hour on."""

    def __init__(self, **releases):
        self.releases = {name.replace("_", "@"): told for name, told in releases.items()}
        self.reads = []

    def summary(self, app, since, until, dimension=None):
        self.reads.append((since, until))
        by_release = {}
        for name, (first, share) in self.releases.items():
            hours = max((until - max(since, BEGIN + first * HOUR)) // HOUR, 0)
            by_release[name] = refusals(40 * hours, round(40 * hours * share))
        if dimension == "release":
            return {name: summary for name, summary in by_release.items() if summary.rows}
        return {None: Summary.merged(by_release.values())}


def spec(**given):
    asked = DetectorSpec("assistant", reference(), "1", BEGIN, DESCRIPTORS, DriftRules())
    return replace(asked, **given)


@pytest.fixture
def store(engine):
    return DetectorStore(engine)


def found_in(store, asked, since, until):
    return {tuple(each.label.values()): each for each in findings(store, asked, since, until) if each.alarm}


def test_a_release_that_refuses_is_found_in_its_slice_and_in_the_app(store):
    traffic = Traffic(a_1=(0, 0.05), a_2=(30, 0.6))
    for hour in range(1, 40):
        assert advance_detectors(store, traffic, spec(), BEGIN + hour * HOUR)
    found = found_in(store, spec(), BEGIN, BEGIN + 40 * HOUR)
    assert set(found) == {("assistant",), ("a@2",)}
    crossing = found["a@2",].crossings[0]
    assert crossing.at == (BEGIN + 31 * HOUR).timestamp()
    assert crossing.since == (BEGIN + 30 * HOUR).timestamp()
    assert "output.refusal rose from 5.0% to 60.0% in a@2" in found["a@2",].why
    assert found["a@2",].to_json()["alarms"][0]["hits"] == 24


def test_quiet_traffic_raises_nothing_and_the_flag_is_shown_as_watched(store):
    traffic = Traffic(a_1=(0, 0.05))
    advance_detectors(store, traffic, spec(), BEGIN + 5 * DAY)
    (shown,) = findings(store, spec(), BEGIN, BEGIN + 5 * DAY)
    assert (shown.alarm, shown.why, shown.label) == (False, "", {"app": "assistant"})
    assert shown.reference_share == pytest.approx(0.05)


def test_days_are_counted_one_by_one_and_nothing_twice(store):
    traffic = Traffic(a_1=(0, 0.05))
    advance_detectors(store, traffic, spec(dimensions=()), BEGIN + 2 * DAY)
    midnight = BEGIN.replace(hour=0) + DAY
    assert traffic.reads == [(BEGIN, midnight), (midnight, midnight + DAY), (midnight + DAY, BEGIN + 2 * DAY)]
    advance_detectors(store, traffic, spec(dimensions=()), BEGIN + 2 * DAY)
    assert len(traffic.reads) == 3
    state = store.load("assistant").states["app", "", "output.refusal"]
    assert state.rows == 48 * 40
    assert len(state.starts) == 3


def test_of_two_monitors_at_the_same_moment_one_counts(store):
    advance_detectors(store, Traffic(a_1=(0, 0.05)), spec(), BEGIN + HOUR)
    loaded = store.load("assistant")
    assert store.save("assistant", loaded, [])
    assert not store.save("assistant", loaded, [])
    assert not store.save("assistant", replace(loaded, revision=0), [])


def test_a_new_reference_starts_anew_where_the_old_one_stopped(store):
    traffic = Traffic(a_1=(0, 0.05))
    advance_detectors(store, traffic, spec(), BEGIN + 5 * HOUR)
    again = spec(reference_id="2", reference=reference(1000, 80))
    advance_detectors(store, traffic, again, BEGIN + 7 * HOUR)
    state = store.load("assistant").states["app", "", "output.refusal"]
    assert (state.reference, state.rows, state.new_starts) == ("2", 80, 2)
    assert len(state.starts) == 1


def test_a_release_that_comes_later_gives_the_app_a_start(store):
    traffic = Traffic(a_1=(0, 0.05), a_2=(3, 0.05))
    for hour in range(1, 6):
        advance_detectors(store, traffic, spec(), BEGIN + hour * HOUR)
    progress = store.load("assistant")
    starts = [start.since for start in progress.states["app", "", "output.refusal"].starts]
    assert starts == [BEGIN.timestamp(), (BEGIN + 3 * HOUR).timestamp()]
    assert progress.places == (("release", "a@1"), ("release", "a@2"))


def test_a_month_later_slices_are_numbered_anew(store):
    traffic = Traffic(a_1=(0, 0.05))
    advance_detectors(store, traffic, spec(), BEGIN + HOUR)
    traffic.releases = {"a@9": (0, 0.05)}
    advance_detectors(store, traffic, spec(), datetime(2026, 2, 1, 1, tzinfo=UTC))
    assert store.load("assistant").places == (("release", "a@9"),)


def test_a_flag_that_the_reference_hardly_has_is_not_watched(store):
    asked = spec(reference=reference(rows=19, hits=1))
    advance_detectors(store, Traffic(a_1=(0, 0.9)), asked, BEGIN + HOUR)
    assert findings(store, asked, BEGIN, BEGIN + DAY) == []


def test_a_flag_that_means_something_else_since_the_pin_is_not_watched():
    changed = {"output.refusal": replace(REFUSAL, version="another")}
    assert spec().flags == ["output.refusal"]
    assert spec(descriptors=changed).flags == []


def test_a_forgotten_slice_leaves_nothing(store):
    traffic = Traffic(a_1=(0, 0.05), a_2=(2, 0.9))
    for hour in range(1, 6):
        advance_detectors(store, traffic, spec(), BEGIN + hour * HOUR)
    assert store.forget("release", "a@2") == 3
    assert store.forget("release", "a@2") == 0
    assert set(found_in(store, spec(), BEGIN, BEGIN + DAY)) == {("assistant",)}
    assert ("release", "a@2") not in store.load("assistant").places
