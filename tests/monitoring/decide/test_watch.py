"""Detectors kept in a database and advanced over what is read of the log, by one monitor or by two."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from monitoring.decide.rules import DriftRules
from monitoring.decide.watch import DetectorSpec, DetectorStore, advance_detectors, findings
from monitoring.descriptors import Descriptor
from monitoring.store.summaries import FlagSummary, Summary
from tests.moments import DAY, HOUR

BEGIN = datetime(2026, 1, 10, 6, tzinfo=UTC)
REFUSAL = Descriptor("output.refusal", "flag", "output", harmful=True)
DESCRIPTORS = {"output.refusal": REFUSAL, "output.link": Descriptor("output.link", "flag", "output")}


def refusals(rows, hits):
    return Summary(rows=rows, flags={"output.refusal": FlagSummary(rows, hits)})


class Traffic:
    """Forty rows an hour of each release; its share of refusals, and from which hour on."""

    def __init__(self, **releases):
        self.releases = {name.replace("_", "@"): told for name, told in releases.items()}
        self.reads = []

    def by_value(self, app, since, until, dimension):
        by_release = {}
        for name, (first, share) in self.releases.items():
            hours = max((until - max(since, BEGIN + first * HOUR)) // HOUR, 0)
            by_release[name] = refusals(40 * hours, round(40 * hours * share))
        return {name: summary for name, summary in by_release.items() if summary.rows}

    def whole(self, app, since, until):
        self.reads.append((since, until))
        return Summary.merged(self.by_value(app, since, until, "release").values())


def spec(**given):
    asked = DetectorSpec("assistant", refusals(1000, 50), "1", BEGIN, DESCRIPTORS, DriftRules())
    return replace(asked, **given)


@pytest.fixture
def store(engine):
    return DetectorStore(engine)


@pytest.fixture
def watch(store):
    """Advances the detectors by the hour, up to the hour with that number."""

    def advance(traffic, until, first=1, **asked):
        for hour in range(first, until + 1):
            assert advance_detectors(store, traffic, spec(**asked), BEGIN + hour * HOUR)
        return store.load("assistant")

    return advance


def test_a_release_that_refuses_is_found_in_its_slice_and_in_the_app(store, watch):
    watch(Traffic(a_1=(0, 0.05), a_2=(30, 0.6)), 39)
    shown = findings(store, spec(), BEGIN, BEGIN + 40 * HOUR)
    found = {each.label.get("release", "whole"): each for each in shown if each.alarm}
    assert set(found) == {"whole", "a@2"}
    crossing = found["a@2"].crossings[0]
    assert crossing.at == (BEGIN + 31 * HOUR).timestamp()
    assert crossing.since == (BEGIN + 30 * HOUR).timestamp()
    assert "output.refusal rose from 5.0% to 60.0% in a@2" in found["a@2"].why
    assert found["a@2"].to_json()["alarms"][0]["hits"] == 24


def test_quiet_days_are_counted_one_by_one_and_nothing_twice_and_the_flag_is_shown_as_watched(store):
    traffic = Traffic(a_1=(0, 0.05))
    advance_detectors(store, traffic, spec(), BEGIN + 2 * DAY)
    midnight = BEGIN.replace(hour=0) + DAY
    assert traffic.reads == [(BEGIN, midnight), (midnight, midnight + DAY), (midnight + DAY, BEGIN + 2 * DAY)]
    advance_detectors(store, traffic, spec(), BEGIN + 2 * DAY)
    assert len(traffic.reads) == 3
    state = store.load("assistant").states["app", "", "output.refusal"]
    assert (state.rows, len(state.starts)) == (48 * 40, 3)
    (shown,) = findings(store, spec(), BEGIN, BEGIN + 2 * DAY)
    assert (shown.alarm, shown.why, shown.label) == (False, "", {"app": "assistant"})
    assert shown.reference_share == pytest.approx(0.05)


def test_of_two_monitors_at_the_same_moment_one_counts(store, watch):
    loaded = watch(Traffic(a_1=(0, 0.05)), 1)
    assert store.save("assistant", loaded, [])
    assert not store.save("assistant", loaded, [])
    assert not store.save("assistant", replace(loaded, revision=0), [])


def test_a_new_reference_starts_anew_where_the_old_one_stopped(watch):
    traffic = Traffic(a_1=(0, 0.05))
    watch(traffic, 5)
    state = watch(traffic, 7, 6, reference_id="2", reference=refusals(1000, 80)).states["app", "", "output.refusal"]
    assert (state.reference, state.rows, state.new_starts, len(state.starts)) == ("2", 80, 2, 1)


def test_a_release_that_comes_later_gives_the_app_a_start(watch):
    progress = watch(Traffic(a_1=(0, 0.05), a_2=(3, 0.05)), 5)
    starts = [start.since for start in progress.states["app", "", "output.refusal"].starts]
    assert starts == [BEGIN.timestamp(), (BEGIN + 3 * HOUR).timestamp()]
    assert progress.places == [("release", "a@1"), ("release", "a@2")]


def test_a_month_later_slices_are_numbered_anew(store, watch):
    traffic = Traffic(a_1=(0, 0.05))
    watch(traffic, 1)
    traffic.releases = {"a@9": (0, 0.05)}
    advance_detectors(store, traffic, spec(), datetime(2026, 2, 1, 1, tzinfo=UTC))
    assert store.load("assistant").places == [("release", "a@9")]


def test_a_flag_that_the_reference_hardly_has_or_that_means_something_else_there_is_not_watched(store, watch):
    assert spec().flags == ["output.refusal"]
    assert spec(descriptors={"output.refusal": replace(REFUSAL, version="another")}).flags == []
    watch(Traffic(a_1=(0, 0.9)), 1, reference=refusals(19, 1))
    assert findings(store, spec(reference=refusals(19, 1)), BEGIN, BEGIN + DAY) == []
