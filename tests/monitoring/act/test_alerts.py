"""Channels and the outbox, against real HTTP and SMTP servers."""

from __future__ import annotations

import base64
import json
import logging
import signal
import ssl
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.production_log import open_engine
from monitoring.act.action_tables import alert_outbox, alone, ensure_tables
from monitoring.act.alarm_book import AlarmBook, alert_of
from monitoring.act.alerts.channel import NotDelivered
from monitoring.act.alerts.email import Email
from monitoring.act.alerts.message import row_links, run_url, text
from monitoring.act.alerts.outbox import Outbox, Sent
from monitoring.act.alerts.prometheus import StageCount, exposition, write_textfile
from monitoring.act.alerts.settings import (
    AlertSettings,
    EmailSettings,
    PrometheusSettings,
    SlackSettings,
    WebhookSettings,
    read_alerts,
)
from monitoring.act.alerts.webhook import Slack, Webhook, slack_message, verify
from tests.monitoring.act.test_policy import entry
from tests.monitoring.acting import START, Clock, Receiver, finding, http_receiver, smtp_receiver

ALERT: dict[str, Any] = {
    "id": "alarm-7-opened-1", "event": "opened", "app": "assistant", "release": "assistant@2",
    "what": "output.refusal", "kind": "sequential", "severity": "high", "slice": {"release": "assistant@2"},
    "why": "refusals <rose> from 5 % to 60 %", "first_at": "2026-01-01T00:00:00+00:00",
    "last_at": "2026-01-01T00:01:00+00:00", "times": 2, "run_url": "https://mlflow.example/#/runs/abc",
    "rows": [{"request_id": f"r{n}", "show": f"llmops log show r{n}", "url": f"https://ops.example/r{n}"}
             for n in range(7)],
}  # fmt: skip
SECRET = "s3cret-token"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http_receiver() as running:
        yield running


@pytest.fixture
def engine(log_url: str) -> Iterator[sa.Engine]:
    made = open_engine(log_url)
    ensure_tables(made)
    yield made
    made.dispose()


# Webhooks


def test_a_webhook_gets_the_alert_signed(receiver: Receiver) -> None:
    settings = WebhookSettings("ops", url=f"{receiver.url}/hook", secret_variable="OPS_SECRET")
    Webhook(settings, {"OPS_SECRET": SECRET}).send(ALERT)

    (got,) = receiver.got
    assert got.json == ALERT
    assert got.headers["X-Llmops-Alert-Id"] == got.headers["Idempotency-Key"] == ALERT["id"]
    signed, now = got.headers["X-Llmops-Signature"], time.time()
    assert verify(SECRET, got.body, signed, now=now)
    assert not verify("another", got.body, signed, now=now)
    assert not verify(SECRET, got.body + b" ", signed, now=now)
    assert not verify(SECRET, got.body, signed, now=now + 301)
    assert not verify(SECRET, got.body, "t=,v1=", now=now)


def test_an_address_may_come_from_a_variable_and_is_never_shown(receiver: Receiver) -> None:
    receiver.answers[:] = [500]
    channel = Slack(SlackSettings("chat", url_variable="CHAT"), {"CHAT": f"{receiver.url}/services/{SECRET}"})

    with pytest.raises(NotDelivered) as failed:
        channel.send(ALERT)
    channel.send(ALERT)

    assert receiver.got[1].path == f"/services/{SECRET}"
    assert str(failed.value) == "chat: 127.0.0.1 answered 500"
    assert SECRET not in repr(channel)


@pytest.mark.parametrize("url", ["", "ftp://host/x", "https://user:word@host/", "nothing"])
def test_a_variable_without_an_address_is_said_by_its_name(url: str) -> None:
    from llmops.errors import LlmopsError

    channel = Slack(SlackSettings("chat", url_variable="CHAT"), {"CHAT": url})
    with pytest.raises(LlmopsError, match="CHAT") as failed:
        channel.send(ALERT)
    assert not url or url not in str(failed.value)


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers[:] = [307]
    with pytest.raises(NotDelivered, match="answered 307"):
        Webhook(WebhookSettings("ops", url=receiver.url)).send(ALERT)
    assert len(receiver.got) == 1


def test_a_server_that_is_away_or_busy_is_an_attempt_that_failed(receiver: Receiver) -> None:
    receiver.answers[:] = [429]
    receiver.retry_after = "120"
    with pytest.raises(NotDelivered) as busy:
        Webhook(WebhookSettings("ops", url=receiver.url)).send(ALERT)
    assert busy.value.retry_after == 120
    with pytest.raises(NotDelivered, match=r"127\.0\.0\.1 cannot be reached: ConnectError"):
        Webhook(WebhookSettings("ops", url="http://127.0.0.1:9/")).send(ALERT)


def test_slack_gets_a_line_for_its_notice_and_links_to_rows() -> None:
    message = slack_message(ALERT)

    assert message["text"] == "ALARM output.refusal (sequential, high) in assistant@2"
    body, links = message["attachments"][0]["blocks"]
    assert "refusals &lt;rose&gt;" in body["text"]["text"]
    assert links["elements"][0]["text"].startswith("<https://ops.example/r0|r0> ")
    assert len(json.dumps(slack_message({**ALERT, "why": "x" * 10_000}))) < 8000


# E-mail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
               "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, str(cert)


def mail_settings(port: int, **changed: Any) -> EmailSettings:
    given = {"port": port, "security": "none", **changed}
    return EmailSettings("on-call", "127.0.0.1", "llmops@example.com", ("ops@example.com", "b@example.com"), **given)


def test_mail_says_all_that_the_alert_says() -> None:
    with smtp_receiver() as box:
        Email(mail_settings(box.port)).send(ALERT)
    (mail,) = box.mails
    assert "Subject: [llmops] ALARM output.refusal (sequential, high) in assistant@2" in mail
    assert "Message-ID: <alarm-7-opened-1@llmops.monitor>" in mail
    assert "To: ops@example.com, b@example.com" in mail
    assert "https://ops.example/r0" in mail


def test_mail_goes_over_starttls_with_a_login(certificate: tuple[ssl.SSLContext, str]) -> None:
    context, authorities = certificate
    with smtp_receiver(context) as box:
        settings = mail_settings(box.port, security="starttls", user="llmops", password_variable="MAIL_PASSWORD")
        Email(settings, {"MAIL_PASSWORD": SECRET}, authorities).send(ALERT)
    assert box.encrypted == [True]
    assert base64.b64decode(box.logins[0]).split(b"\0")[1:] == [b"llmops", SECRET.encode()]


def test_no_password_is_sent_to_a_server_that_cannot_prove_who_it_is(
    certificate: tuple[ssl.SSLContext, str],
) -> None:
    with smtp_receiver(certificate[0]) as box:
        settings = mail_settings(box.port, security="starttls", user="llmops", password_variable="MAIL_PASSWORD")
        with pytest.raises(NotDelivered, match="SSLCertVerificationError"):
            Email(settings, {"MAIL_PASSWORD": SECRET}).send(ALERT)
    assert not box.logins


def test_starttls_is_insisted_on() -> None:
    with smtp_receiver() as box, pytest.raises(NotDelivered, match="SMTPNotSupportedError"):
        Email(mail_settings(box.port, security="starttls")).send(ALERT)
    assert not box.mails


def test_what_a_mail_server_says_is_not_repeated() -> None:
    with smtp_receiver() as box:
        box.refuse = "DATA"
        with pytest.raises(NotDelivered) as failed:
            Email(mail_settings(box.port)).send(ALERT)
    assert str(failed.value) == "on-call: 127.0.0.1: SMTPDataError 550"


def test_a_header_cannot_be_smuggled_in() -> None:
    message = Email(mail_settings(25)).message({**ALERT, "what": "x\r\nBcc: evil@example.com"})
    assert "Bcc" not in message
    assert "\n" not in message["Subject"]


# The outbox


def book_of(engine: sa.Engine, clock: Clock, *channels: Any) -> tuple[AlarmBook, Outbox]:
    outbox = Outbox(engine, channels, now=clock)
    return AlarmBook(engine, AlertSettings(), outbox), outbox


def test_an_alert_is_tried_ever_more_rarely_until_it_arrives(engine: sa.Engine, receiver: Receiver) -> None:
    receiver.answers[:] = [500, 502]
    clock = Clock()
    book, outbox = book_of(engine, clock, Webhook(WebhookSettings("ops", url=receiver.url)))
    book.record("assistant", "tick", [finding()], clock.at)

    assert outbox.send_due() == Sent(failed=1, errors=("ops: 127.0.0.1 answered 500",))
    assert outbox.send_due() == Sent()
    clock.move(seconds=11)
    assert outbox.send_due().failed == 1
    clock.move(seconds=11)
    assert outbox.send_due() == Sent()
    assert [item.waiting for item in outbox.deliveries()] == [1]
    clock.move(seconds=11)
    assert outbox.send_due() == Sent(delivered=1)
    assert outbox.send_due() == Sent()

    assert {got.json["id"] for got in receiver.got} == {"alarm-1-opened-1"}
    (delivery,) = outbox.deliveries()
    assert (delivery.delivered, delivery.waiting, delivery.failed_attempts) == (1, 0, 2)


def test_an_alert_that_never_arrives_is_given_up_and_counted(engine: sa.Engine, receiver: Receiver) -> None:
    receiver.answers[:] = [500] * 100
    clock = Clock()
    outbox = Outbox(engine, [Webhook(WebhookSettings("ops", url=receiver.url))], give_up_after=5 * 3600.0, now=clock)
    AlarmBook(engine, AlertSettings(), outbox).record("assistant", "tick", [finding()], clock.at)

    rounds = [outbox.send_due() for _ in range(8) if clock.move(hours=1)]

    assert sum(sent.given_up for sent in rounds) == 1
    (delivery,) = outbox.deliveries()
    assert (delivery.given_up, delivery.waiting) == (1, 0)
    assert delivery.last_error == "ops: 127.0.0.1 answered 500"


def test_a_channel_that_is_down_holds_up_no_other_and_costs_one_attempt(engine: sa.Engine, receiver: Receiver) -> None:
    clock = Clock()
    down = Webhook(WebhookSettings("down", url="http://127.0.0.1:9/"))
    book, outbox = book_of(engine, clock, down, Webhook(WebhookSettings("ops", url=receiver.url)))
    for app in ("assistant", "helper", "third"):
        book.record(app, "tick", [replace(finding(release=f"{app}@1"), app=app)], clock.at)

    sent = outbox.send_due()

    assert (sent.delivered, sent.failed) == (3, 1)


def test_a_channel_is_told_of_its_apps_alone(engine: sa.Engine, receiver: Receiver) -> None:
    clock = Clock()
    book, outbox = book_of(engine, clock, Webhook(WebhookSettings("ops", url=receiver.url, apps=("helper",))))
    book.record("assistant", "tick", [finding()], clock.at)

    assert outbox.send_due() == Sent()


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from llmops.production_log import open_engine
from llmops.settings import named_variables
from monitoring.act.alarm_book import AlarmBook, Finding
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.settings import AlertSettings, WebhookSettings
from monitoring.act.alerts.webhook import Webhook

class Killing:
    name, apps = "ops", ()
    def __init__(self, url, after): self.hook, self.after = Webhook(WebhookSettings("ops", url=url)), after
    def send(self, alert):
        if self.after: self.hook.send(alert)
        os.kill(os.getpid(), signal.SIGKILL)

url, receiver, after = sys.argv[1], sys.argv[2], sys.argv[3] == "after"
engine = open_engine(url)
outbox = Outbox(engine, [Killing(receiver, after)], now=lambda: 1000.0)
book = AlarmBook(engine, AlertSettings(), outbox)
found = Finding("assistant", "output.refusal", "sequential", "rose", "output", "assistant@2")
book.record("assistant", "tick", [found], datetime.fromtimestamp(1000, UTC))
outbox.send_due()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_no_alert_is_lost_when_the_process_is_killed(
    engine: sa.Engine, receiver: Receiver, log_url: str, when: str
) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, log_url, receiver.url, when], check=False, timeout=180)
    assert done.returncode == -signal.SIGKILL

    clock = Clock(datetime.fromtimestamp(1000, UTC))
    outbox = Outbox(engine, [Webhook(WebhookSettings("ops", url=receiver.url))], now=clock)
    assert outbox.send_due() == Sent()  # it is claimed by the one that died
    clock.move(seconds=121)
    assert outbox.send_due() == Sent(delivered=1)

    ids = [got.headers["X-Llmops-Alert-Id"] for got in receiver.got]
    assert ids == ["alarm-1-opened-1"] * (2 if when == "after" else 1)


def test_an_alert_is_put_once_for_each_id(engine: sa.Engine, receiver: Receiver) -> None:
    outbox = Outbox(engine, [Webhook(WebhookSettings("ops", url=receiver.url))])
    for _ in range(2):
        with alone(engine) as connection:
            outbox.put(connection, ALERT)
    with engine.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(alert_outbox)).scalar_one() == 1


# Texts, Prometheus


def test_links_name_the_command_and_the_address() -> None:
    settings = AlertSettings(row_url="https://ops/{request_id}", mlflow_url="https://mlflow/")
    assert row_links(settings, ["a b/c"]) == [
        {"request_id": "a b/c", "show": "llmops log show 'a b/c'", "url": "https://ops/a%20b%2Fc"}
    ]
    assert run_url(settings, "abc") == "https://mlflow/#/runs/abc"
    assert run_url(AlertSettings(), "abc") is None
    assert "llmops log show r1" in text({**ALERT, "rows": row_links(AlertSettings(), ["r1"])})


def test_prometheus_reads_what_is_written(engine: sa.Engine, tmp_path: Path) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    clock = Clock()
    book, outbox = book_of(engine, clock, Webhook(WebhookSettings("ops", url="http://127.0.0.1:9/")))
    book.record("assistant", "tick", [finding('a "quoted"\n\\ name')], START)
    stages = [StageCount("ingest", 5, 1, 0.0, "away")]
    path = tmp_path / "collected" / "llmops.prom"
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


def test_nothing_secret_is_logged(engine: sa.Engine, receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    receiver.answers[:] = [500]
    clock = Clock()
    with caplog.at_level(logging.WARNING):
        channel = Slack(SlackSettings("chat", url_variable="CHAT"), {"CHAT": f"{receiver.url}/{SECRET}"})
        book, outbox = book_of(engine, clock, channel)
        book.record("assistant", "tick", [finding()], clock.at)
        outbox.send_due()
    with engine.begin() as connection:
        kept = str(connection.execute(sa.select(alert_outbox)).all())
    assert SECRET not in caplog.text + kept


def test_the_reference_page_names_every_key_and_what_an_alert_holds():
    page = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text(encoding="utf-8")
    given = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])
    read = read_alerts(given["alerts"], "alerts.md")
    assert [channel.name for channel in read.channels] == ["ops", "channel", "on-call"]
    kinds = (WebhookSettings, SlackSettings, EmailSettings, PrometheusSettings, AlertSettings)
    keys = {field.name for kind in kinds for field in fields(kind)} - {"webhook", "slack", "email", "prometheus"}
    for key in keys - {"sender"} | {"from"}:
        assert f"`{key}`" in page, key
    shown = json.loads(page.partition("```json\n")[2].partition("```")[0])
    told = alert_of([entry()], "opened", read)
    assert set(shown) == {*told, "policy"}
    assert set(shown["parts"][0]) == set(told["parts"][0])
