"""What the daemon looks with, under a system clock that leaps, ahead and back, between its ticks."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from llmops.audit import AuditLog
from llmops.errors import StoreUnavailable
from llmops.production_log import LogRecord, ProductionLog
from llmops.production_log.archive import Archive
from llmops.production_log.archive_layout import Partition
from llmops.settings import Settings
from monitoring.act.action_tables import ensure_tables
from monitoring.config import MonitorConfig, read_config
from monitoring.daemon.work import LogWork, WindowSchedule, clock_is_believed
from monitoring.decide.watch import DetectorStore
from monitoring.descriptors import DescriptorSet
from monitoring.run import pin_reference
from monitoring.store.database import open_database
from monitoring.stores import opened_archives
from tests.moments import DAY, HOUR
from tests.monitoring.acting import Clock
from tests.monitoring.conftest import REFUSAL


@pytest.fixture
def believes(log_url, any_log):
    """Asks whether a time is believed, by a log whose newest record is a day old. The time: in days from now."""
    any_log.append([LogRecord("r1", Clock().at - DAY, 200, "ok", "What?", "This.", "assistant@1")])
    made = open_database(log_url)
    ensure_tables(made)
    yield lambda days: clock_is_believed(made, (Clock().at + days * DAY).timestamp())
    made.dispose()


@pytest.mark.parametrize(
    "looks",
    [
        [(0, True), (365, False), (365 + 23 / 24, False), (366, True), (366 + 1 / 24, True)],
        [(40, False), (0, True), (40, False), (1 / 24, True)],
        [(0, True), (1, True), (2.5, True), (1, True)],
    ],
    ids=[
        "a leap ahead, until it has lasted a day",
        "a leap ahead and back",
        "a daily look, and a clock that goes back",
    ],
)
def test_texts_are_not_deleted_by_a_clock_that_leapt_ahead(believes, looks):
    assert [believes(days) for days, _ in looks] == [believed for _, believed in looks]


@dataclasses.dataclass
class Watch:
    """A daemon's work over one log with a pinned reference, by a clock that can be moved."""

    settings: Settings
    config: MonitorConfig
    log: ProductionLog
    clock: Clock

    def answer(self, rows, refusing):
        """Rows of the minutes before now."""
        answers = [REFUSAL if refusing or number % 20 == 0 else "It is this." for number in range(1, rows + 1)]
        self.log.append(
            [
                LogRecord(f"{self.clock.at.isoformat()}-{number}", self.clock.at - timedelta(seconds=number), 200, "ok",
                          "What is it?", answer, "assistant@1")
                for number, answer in enumerate(answers, 1)
            ]
        )  # fmt: skip

    def pin(self):
        """Makes 300 good rows of now the reference."""
        self.answer(300, refusing=False)
        at = self.clock.at
        pin_reference(self.settings, "assistant", at - HOUR, at, "a test", config=self.config)

    def work(self):
        schedule = WindowSchedule()
        return LogWork(self.settings, self.config, schedule, lambda _: "assistant@1", settle=0, now=self.clock)

    def counted_until(self):
        with self.work() as work:
            return DetectorStore(work.engine).counted_until("assistant")

    def alarms(self):
        with self.work() as work:
            work.ingest()
            return {(alarm.what, alarm.release) for alarm in work.advance("assistant")}


REFUSALS = {("output.refusal", "assistant@1")}


@pytest.fixture
def watch(settings, log):
    descriptors = DescriptorSet.from_config([{"name": "output.refusal", "kind": "refusal", "of": "output"}], settings)
    config = dataclasses.replace(read_config(settings), descriptors=descriptors)
    found = Watch(settings, config, log, Clock(datetime.now(UTC)))
    found.pin()
    return found


@pytest.mark.parametrize("leap", [timedelta(days=40), timedelta(hours=-5)], ids=["ahead", "back, while rows come"])
def test_detectors_see_a_bad_release_when_a_clock_that_leapt_is_right_again(watch, leap):
    watch.clock.move(minutes=10)
    watch.answer(100, refusing=False)
    assert watch.alarms() == set()
    before = watch.counted_until()
    watch.clock.at += leap
    assert watch.alarms() == set()
    watch.clock.at += timedelta(minutes=10) - leap
    watch.answer(100, refusing=True)
    assert (watch.counted_until() == before) == (leap < timedelta(0)), "they wait for a clock that went back"
    assert watch.alarms() == REFUSALS


def test_a_reference_pinned_by_a_clock_that_was_ahead_silences_no_detector(watch):
    pinned_at = watch.clock.at
    watch.clock.move(days=-3)
    watch.pin()
    watch.clock.move(minutes=10)
    watch.answer(100, refusing=True)
    assert watch.clock.at < pinned_at
    assert watch.alarms() == REFUSALS


def test_a_daemon_deletes_no_texts_because_the_clock_leapt(watch):
    watch.settings = dataclasses.replace(watch.settings, retention_days=30)
    with watch.work() as work:
        work.ingest()
        for leap in (40, -40):
            work.retain()
            watch.clock.move(days=leap)
        assert all(record.input for record in watch.log.read(app="assistant"))
        for days in (31, 1):
            watch.clock.move(days=days)
            work.retain()
        assert not any(record.input for record in watch.log.read(app="assistant"))


def test_a_daemon_deletes_old_hours_of_archives_and_waits_for_no_other_process(watch, tmp_path, caplog):
    caplog.set_level("INFO", "llmops.monitoring")
    watch.settings = dataclasses.replace(watch.settings, archive_retention_days=30)
    watch.log.append([LogRecord("old", watch.clock.at - 40 * DAY, 200, "ok", "What?", "This.", "assistant@1")])
    watch.answer(1, refusing=False)
    archive = Archive(str(tmp_path / "archive"))
    with watch.work() as work:
        with opened_archives(watch.log, new=archive):
            for place, seen in watch.log.hours().items():
                archive.archive(watch.log, Partition(*place), seen)
            work.retain()
        assert "another process writes to the log's archives" in caplog.text
        assert archive.count() == 302
        watch.clock.move(hours=1)
        work.retain()
        assert archive.read(request_id="old") == []
        assert archive.count() == 301
        assert watch.log.read(request_id="old")[0].input, "no setting says that texts go from the log"
        (entry,) = AuditLog(watch.log.url).entries()
        assert entry.details["deleted"] == {"archived_hours": 1, "archived_records": 1}
        (tmp_path / "archive").rename(tmp_path / "elsewhere")
        work.retain()
        watch.clock.move(hours=1)
        with pytest.raises(StoreUnavailable, match="is not there"):
            work.retain()
