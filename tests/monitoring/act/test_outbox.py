"""The outbox: alerts on their way to real servers, tried again, given up, and not lost in a crash or by a clock."""

import logging
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from monitoring.act.action_tables import alert_outbox
from monitoring.act.alarm_book import AlarmBook
from monitoring.act.alerts import AlertSettings, Slack, Webhook
from monitoring.act.outbox import Outbox, Sent
from monitoring.act.prometheus import StageCount, exposition, write_textfile
from monitoring.store.database import writing_alone
from tests.monitoring.act.test_alerts import ALERT, SECRET
from tests.monitoring.acting import Clock, dribbling_receiver, finding
from tests.monitoring.conftest import slow_on_postgresql


def outbox_with_an_alert(engine, clock, *channels, apps=("assistant",), **given):
    outbox = Outbox(engine, channels, now=clock, **given)
    for app in apps:
        found = replace(finding(release=f"{app}@2"), app=app)
        AlarmBook(engine, AlertSettings(), outbox).record(app, "tick", [found], clock.at)
    return outbox


def test_an_alert_is_tried_ever_more_rarely_until_it_arrives(engine, receiver, clock):
    receiver.answers[:] = [500, 502]
    outbox = outbox_with_an_alert(engine, clock, Webhook("ops", url=receiver.url))
    first, second = (Sent(errors=(f"ops: 127.0.0.1 answered {status}",)) for status in receiver.answers)
    for seconds, sent in ((0, first), (0, Sent()), (11, second), (11, Sent())):
        clock.move(seconds=seconds)
        assert outbox.send_due() == sent
    assert [item.waiting for item in outbox.deliveries()] == [1]
    clock.move(seconds=11)
    assert [outbox.send_due(), outbox.send_due()] == [Sent(delivered=1), Sent()]
    assert {got.body["id"] for got in receiver.got} == {"alarm-1-opened-1"}
    (delivery,) = outbox.deliveries()
    assert (delivery.delivered, delivery.waiting, delivery.failed_attempts) == (1, 0, 2)


def test_an_alert_that_never_arrives_is_given_up_and_counted(engine, receiver, clock):
    receiver.answers[:] = [500] * 100
    outbox = outbox_with_an_alert(engine, clock, Webhook("ops", url=receiver.url), give_up_after=5 * 3600.0)
    rounds = [outbox.send_due() for _ in range(8) if clock.move(hours=1)]
    assert sum(sent.given_up for sent in rounds) == 1
    (delivery,) = outbox.deliveries()
    assert (delivery.given_up, delivery.waiting) == (1, 0)
    assert delivery.last_error == "ops: 127.0.0.1 answered 500"


def test_an_alert_that_cannot_be_sent_at_all_is_postponed_and_given_up(engine, receiver, clock):
    wrong = Webhook("wrong", url="http://127.0.0.1:99999/s3cret-token")
    outbox = outbox_with_an_alert(engine, clock, wrong, Webhook("ops", url=receiver.url))
    sent = outbox.send_due()
    assert (sent.delivered, len(sent.errors)) == (1, 1)
    assert SECRET not in str(sent.errors)
    given_up = [outbox.send_due().given_up for _ in range(2) if clock.move(hours=25)]
    assert given_up == [0, 1], "a clock that leaps once makes no alert too old"


def test_a_channel_that_is_down_or_told_of_another_app_holds_up_no_other_and_costs_one_attempt(engine, receiver, clock):
    down, ops = Webhook("down", url="http://127.0.0.1:9/"), Webhook("ops", url=receiver.url)
    other = Webhook("other", url=receiver.url, apps=("third",))
    sent = outbox_with_an_alert(engine, clock, down, ops, other, apps=("assistant", "helper", "third")).send_due()
    assert (sent.delivered, len(sent.errors)) == (4, 1)


def test_a_receiver_that_never_ends_its_answer_holds_up_nobody(engine, receiver, clock):
    with dribbling_receiver(b"HTTP/1.1 200 OK\r\n\r\n", 0.001) as url:  # its body is not read
        outbox = outbox_with_an_alert(engine, clock, Webhook("endless", url=url), apps=("other",))
        assert outbox.send_due().delivered == 1
    with dribbling_receiver(b"HTTP/1.1 200 OK\r\nX-Long: ", 0.05) as url:
        channels = Webhook("slow", url=url), Webhook("ops", url=receiver.url)
        outbox = outbox_with_an_alert(engine, clock, *channels, longest=1.0)
        first = outbox.send_due()
        clock.move(hours=1)
        second = outbox.send_due()  # on a machine that stands still the other one may need it, too
        assert "slow: no end after 1 s" in first.errors
        assert "slow: an earlier attempt has not come to its end" in second.errors
        assert first.delivered + second.delivered == 1


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from llmops.production_log import open_engine
from monitoring.act.alarm_book import AlarmBook, Sighting
from monitoring.act.alerts import AlertSettings, Webhook
from monitoring.act.outbox import Outbox

class Killing:
    name, apps = "ops", ()
    def __init__(self, url, after): self.hook, self.after = Webhook("ops", url=url), after
    def send(self, alert):
        if self.after: self.hook.send(alert)
        os.kill(os.getpid(), signal.SIGKILL)

url, receiver, after = sys.argv[1], sys.argv[2], sys.argv[3] == "after"
engine = open_engine(url)
outbox = Outbox(engine, [Killing(receiver, after)], now=lambda: 1000.0)
book = AlarmBook(engine, AlertSettings(), outbox)
found = Sighting("assistant", "output.refusal", "sequential", "rose", "output", "assistant@2")
book.record("assistant", "tick", [found], datetime.fromtimestamp(1000, UTC))
outbox.send_due()
"""


@slow_on_postgresql
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_alert_is_lost_when_the_process_is_killed(engine, receiver, log_url, when):
    done = subprocess.run([sys.executable, "-c", KILLED, log_url, receiver.url, when], check=False, timeout=180)
    assert done.returncode == -signal.SIGKILL
    clock = Clock(datetime.fromtimestamp(1000, UTC))
    outbox = Outbox(engine, [Webhook("ops", url=receiver.url)], now=clock)
    assert outbox.send_due() == Sent()  # it is claimed by the one that died
    clock.move(seconds=121)
    assert outbox.send_due() == Sent(delivered=1)
    ids = [got.headers["x-llmops-alert-id"] for got in receiver.got]
    assert ids == ["alarm-1-opened-1"] * (2 if when == "after" else 1)


def test_an_alert_is_put_once_for_each_id(engine):
    outbox = Outbox(engine, [Webhook("ops", url="http://127.0.0.1:9/")])
    for _ in range(2):
        with writing_alone(engine) as connection:
            outbox.put(connection, ALERT)
    assert [item.waiting for item in outbox.deliveries()] == [1]


@pytest.mark.parametrize("leaps", [(3, 0, -3), (0, 30, -30)], ids=["put by a clock ahead", "tried by a clock ahead"])
def test_an_alert_that_a_clock_ahead_put_off_leaves_when_it_is_right_again(engine, receiver, clock, leaps):
    receiver.answers[:] = [500]
    clock.move(days=leaps[0])
    outbox = outbox_with_an_alert(engine, clock, Webhook("ops", url=receiver.url))
    clock.move(days=leaps[1])
    sent = outbox.send_due()
    assert (len(sent.errors), sent.given_up) == (1, 0)
    clock.move(days=leaps[2])
    assert outbox.send_due().delivered == 1


def test_nothing_secret_is_logged(engine, receiver, clock, caplog, monkeypatch):
    monkeypatch.setenv("CHAT", f"{receiver.url}/{SECRET}")
    receiver.answers[:] = [500]
    with caplog.at_level(logging.WARNING):
        outbox_with_an_alert(engine, clock, Slack("chat", url_variable="CHAT")).send_due()
    with engine.begin() as connection:
        kept = str(connection.execute(sa.select(alert_outbox)).all())
    assert SECRET not in caplog.text + kept


def test_prometheus_reads_what_is_written(engine, clock, tmp_path):
    from prometheus_client.parser import text_string_to_metric_families

    outbox = Outbox(engine, [Webhook("ops", url="http://127.0.0.1:9/")], now=clock)
    book = AlarmBook(engine, AlertSettings(), outbox)
    book.record("assistant", "tick", [finding('a "quoted"\n\\ name')], clock.at)
    stages, path = [StageCount("ingest", 5, 1, 0.0, "away")], tmp_path / "collected" / "llmops.prom"
    write_textfile(path, exposition(book.entries(), outbox.deliveries(), [], stages, 1000.0))
    samples = {
        (sample.name, sample.labels.get("descriptor") or sample.labels.get("stage")): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }
    assert samples["llmops_monitor_alarm", 'a "quoted"\n\\ name'] == 1
    assert samples["llmops_monitor_stage_failures_total", "ingest"] == 1
    assert samples["llmops_monitor_alerts_waiting", None] == 1
    assert [file.name for file in path.parent.iterdir()] == ["llmops.prom"]  # nothing half written
