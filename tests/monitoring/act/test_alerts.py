"""The `[alerts]` table, and its channels against real HTTP and SMTP servers."""

import base64
import hashlib
import hmac
import json
import ssl
import subprocess
import time
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from llmops.errors import BadFile, LlmopsError
from monitoring.act.alarm_book import alert_of
from monitoring.act.alerts import (
    AlertSettings,
    Email,
    NotDelivered,
    PrometheusSettings,
    Slack,
    Webhook,
    read_alerts,
    slack_message,
    text,
)
from tests.monitoring.act.test_policy import entry
from tests.monitoring.acting import smtp_receiver

ALERT = {
    "id": "alarm-7-opened-1", "event": "opened", "app": "assistant", "release": "assistant@2",
    "what": "output.refusal", "kind": "sequential", "severity": "high", "slice": {"release": "assistant@2"},
    "why": "refusals <rose> from 5 % to 60 %", "first_at": "2026-01-01T00:00:00+00:00",
    "last_at": "2026-01-01T00:01:00+00:00", "times": 2, "run_url": "https://mlflow.example/#/runs/abc",
    "rows": [{"request_id": f"r{n}", "show": f"llmops log show r{n}", "url": f"https://ops.example/r{n}"}
             for n in range(7)],
}  # fmt: skip
SECRET = "s3cret-token"
EMAIL = {"host": "h", "from": "a@b", "to": ["c@d"]}


def test_channels_have_the_names_of_their_kinds_and_a_cool_down_may_have_a_unit():
    read = read_alerts({"cool_down": "2h", "webhook": [{"url": "https://ops/"}], "email": [EMAIL]}, "m.toml")
    assert (read.cool_down, [channel.name for channel in read.channels]) == (7200, ["webhook", "email"])
    assert read_alerts({}, "m.toml") == AlertSettings()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"cooldown": "2h"}, r"alerts: cooldown: unknown key; did you mean cool_down"),
        ({"webhook": [{"name": "x"}]}, "alerts.webhook: url: give either url or url_variable"),
        ({"webhook": [{"url": "https://a:b@c/"}]}, "alerts.webhook: url: .*without a password"),
        ({"webhook": [{"url": "https://c/", "secret": "x"}]}, "secret: unknown key; did you mean secret_variable"),
        ({"slack": [{"name": "x", "url": "https://a/"}, {"name": "x", "url": "https://b/"}]}, "name: two channels"),
        ({"email": [{**EMAIL, "security": "ssl"}]}, "alerts.email: security: must be 'starttls', 'tls' or 'none'"),
        ({"email": [{**EMAIL, "to": ["c\n@d"]}]}, "to: an address is one line"),
        ({"email": [{"host": "h", "to": ["c@d"]}]}, "alerts.email: from: is missing"),
        ({"email": [{**EMAIL, "port": 70_000}]}, "alerts.email: port: must be from 0 to 65535, not 70000"),
        ({"email": [{**EMAIL, "to": []}]}, "to: name at least one address"),
        ({"email": [{**EMAIL, "sender": "a@b"}]}, "alerts.email: sender: unknown key"),
        ({"tell_resolved": "yes"}, "alerts: tell_resolved: must be true or false, not 'yes'"),
        ({"cool_down": True}, "alerts: cool_down: True is no duration"),
        ({"slack": [{"url": "https://a/", "apps": [3]}]}, r"alerts.slack: apps\[0\]: must be text, not 3"),
        ({"email": [{**EMAIL, "user": "u", "password_variable": "P", "security": "none"}]}, "in the clear"),
        ({"row_url": "https://ops/"}, "row_url: must contain {request_id}"),
        ({"prometheus": {"textfile": "/tmp/x.txt"}}, "alerts.prometheus: textfile: .* end in .prom"),
        ({"webhook": {"url": "https://c/"}}, r"webhook: must be tables: \[\[alerts.webhook\]\]"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(table, problem):
    with pytest.raises(BadFile, match=rf"m\.toml: .*{problem}") as wrong:
        read_alerts(table, "m.toml")
    assert "a:b@c" not in str(wrong.value)


def test_the_reference_page_names_every_key_and_what_an_alert_holds():
    page = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text(encoding="utf-8")
    given = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])
    read = read_alerts(given["alerts"], "alerts.md")
    assert [channel.name for channel in read.channels] == ["ops", "channel", "on-call"]
    kinds = (Webhook, Slack, Email, PrometheusSettings, AlertSettings)
    keys = {field.name for kind in kinds for field in fields(kind)} - {"webhook", "slack", "email", "prometheus"}
    for key in keys - {"sender"} | {"from"}:
        assert f"`{key}`" in page, key
    shown = json.loads(page.partition("```json\n")[2].partition("```")[0])
    told = alert_of([entry()], "opened", read)
    assert set(shown) == {*told, "policy"}
    assert set(shown["parts"][0]) == set(told["parts"][0])


def test_links_name_the_command_and_the_address():
    settings = AlertSettings(row_url="https://ops/{request_id}", mlflow_url="https://mlflow/")
    assert settings.row_links(["a b/c"]) == [
        {"request_id": "a b/c", "show": "llmops log show 'a b/c'", "url": "https://ops/a%20b%2Fc"}
    ]
    assert settings.run_url("abc") == "https://mlflow/#/runs/abc"
    assert AlertSettings().run_url("abc") is None
    assert "llmops log show r1" in text({**ALERT, "rows": AlertSettings().row_links(["r1"])})


# Webhooks


def test_a_webhook_gets_the_alert_signed(receiver, monkeypatch):
    monkeypatch.setenv("OPS_SECRET", SECRET)
    Webhook("ops", url=f"{receiver.url}/hook", secret_variable="OPS_SECRET").send(ALERT)
    (got,) = receiver.got
    assert got.body == ALERT
    assert got.headers["x-llmops-alert-id"] == got.headers["idempotency-key"] == ALERT["id"]
    at, signature = (part.partition("=")[2] for part in got.headers["x-llmops-signature"].split(","))
    assert abs(time.time() - int(at)) < 300
    assert signature == hmac.new(SECRET.encode(), f"{at}.".encode() + got.raw, hashlib.sha256).hexdigest()


def test_an_address_may_come_from_a_variable_and_is_never_shown(receiver, monkeypatch):
    monkeypatch.setenv("CHAT", f"{receiver.url}/services/{SECRET}")
    receiver.answers[:] = [500]
    channel = Slack("chat", url_variable="CHAT")
    with pytest.raises(NotDelivered) as failed:
        channel.send(ALERT)
    channel.send(ALERT)
    assert receiver.got[1].line == f"POST /services/{SECRET} HTTP/1.1"
    assert str(failed.value) == "chat: 127.0.0.1 answered 500"
    assert SECRET not in repr(channel)


@pytest.mark.parametrize("url", ["", "ftp://host/x", "https://user:word@host/", "nothing"])
def test_a_variable_without_an_address_is_said_by_its_name(url, monkeypatch):
    monkeypatch.setenv("CHAT", url)
    with pytest.raises(LlmopsError, match="CHAT") as failed:
        Slack("chat", url_variable="CHAT").send(ALERT)
    assert not url or url not in str(failed.value)


@pytest.mark.parametrize(
    ("status", "problem", "retry_after"),
    [(429, "answered 429", 120), (307, "answered 307", 120), (0, "ConnectError", None)],
)
def test_a_server_that_is_busy_elsewhere_or_away_is_an_attempt_that_failed(receiver, status, problem, retry_after):
    receiver.answers[:], receiver.retry_after = [status], "120"
    url = receiver.url if status else "http://127.0.0.1:9/"
    with pytest.raises(NotDelivered, match=rf"ops: 127\.0\.0\.1 .*{problem}") as failed:
        Webhook("ops", url=url).send(ALERT)
    assert failed.value.retry_after == retry_after
    assert len(receiver.got) == (status > 0), "a redirect is not followed"


def test_slack_gets_a_line_for_its_notice_and_links_to_rows():
    message = slack_message(ALERT)
    assert message["text"] == "ALARM output.refusal (sequential, high) in assistant@2"
    body, links = message["attachments"][0]["blocks"]
    assert "refusals &lt;rose&gt;" in body["text"]["text"]
    assert links["elements"][0]["text"].startswith("<https://ops.example/r0|r0> ")
    assert len(json.dumps(slack_message({**ALERT, "why": "x" * 10_000}))) < 8000


# E-mail


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A server's side of TLS, and the file of its certificate."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert),
               "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, str(cert)


def mail(port, security="none", **changed):
    to = ("ops@example.com", "b@example.com")
    return Email("on-call", "127.0.0.1", "llmops@example.com", to, port, security, **changed)


LOGIN = {"user": "llmops", "password_variable": "MAIL_PASSWORD"}


def test_mail_says_all_that_the_alert_says_and_no_header_can_be_smuggled_in():
    with smtp_receiver() as box:
        mail(box.port).send(ALERT)
        message = mail(box.port).message({**ALERT, "what": "x\r\nBcc: evil@example.com"})
    assert "Bcc" not in message
    assert "\n" not in message["Subject"]
    (got,) = box.mails
    for told in (
        "Subject: [llmops] ALARM output.refusal (sequential, high) in assistant@2",
        "Message-ID: <alarm-7-opened-1@llmops.monitor>",
        "To: ops@example.com, b@example.com",
        "https://ops.example/r0",
    ):
        assert told in got


def test_mail_goes_over_starttls_with_a_login(certificate, monkeypatch):
    context, authorities = certificate
    monkeypatch.setenv("MAIL_PASSWORD", SECRET)
    monkeypatch.setenv("SSL_CERT_FILE", authorities)
    with smtp_receiver(context) as box:
        mail(box.port, "starttls", **LOGIN).send(ALERT)
    assert box.encrypted == [True]
    assert base64.b64decode(box.logins[0]).split(b"\0")[1:] == [b"llmops", SECRET.encode()]


@pytest.mark.parametrize(
    ("security", "known", "problem"),
    [
        ("starttls", True, "SSLCertVerificationError"),  # it cannot prove who it is
        ("starttls", False, "SMTPNotSupportedError"),
        ("none", False, "SMTPDataError 550"),
    ],
)
def test_mail_is_refused_to_a_server_that_is_not_to_be_trusted_and_what_it_says_is_not_repeated(
    certificate, monkeypatch, security, known, problem
):
    monkeypatch.setenv("MAIL_PASSWORD", SECRET)
    with smtp_receiver(certificate[0] if known else None) as box:
        box.refuse = "DATA"
        with pytest.raises(NotDelivered) as failed:
            mail(box.port, security, **(LOGIN if known else {})).send(ALERT)
    assert str(failed.value) == f"on-call: 127.0.0.1: {problem}"
    assert (box.logins, box.mails) == ([], [])
