"""Receivers of alerts that mean ill, or that cannot be spoken to at all."""

from __future__ import annotations

import contextlib
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from llmops.production_log import open_engine
from monitoring.act.action_tables import ensure_tables
from monitoring.act.alarm_book import AlarmBook
from monitoring.act.alerts.outbox import Outbox
from monitoring.act.alerts.settings import AlertSettings, WebhookSettings
from monitoring.act.alerts.webhook import Webhook
from tests.monitoring.acting import Clock, Receiver, finding, http_receiver


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


@contextmanager
def dribbling_receiver(first: bytes, pause: float) -> Iterator[str]:
    """A server that answers with `first` and then, for ever, with more of it. Yields its address."""
    ended = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.sendall(first)
                while not ended.wait(pause):
                    self.request.sendall(b"x" * 1000 if pause < 0.01 else b"x")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            ended.set()
            server.shutdown()
            thread.join()


def test_an_answer_without_end_is_not_read() -> None:
    with dribbling_receiver(b"HTTP/1.1 200 OK\r\n\r\n", 0.001) as url:
        Webhook(WebhookSettings("ops", url=url)).send({"id": "alarm-1", "event": "opened", "app": "assistant"})


def test_a_receiver_that_never_ends_its_answer_holds_up_nobody(engine: sa.Engine, receiver: Receiver) -> None:
    clock = Clock()
    with dribbling_receiver(b"HTTP/1.1 200 OK\r\nX-Long: ", 0.05) as url:
        channels = [Webhook(WebhookSettings("slow", url=url)), Webhook(WebhookSettings("ops", url=receiver.url))]
        outbox = Outbox(engine, channels, now=clock, longest=1.0)
        AlarmBook(engine, AlertSettings(), outbox).record("assistant", "tick", [finding()], clock.at)

        first = outbox.send_due()
        clock.move(hours=1)
        second = outbox.send_due()  # on a machine that stands still the other one may need it, too

        assert "slow: no end after 1 s" in first.errors
        assert "slow: an earlier attempt has not come to its end" in second.errors
        assert first.delivered + second.delivered == 1


def test_an_alert_that_cannot_be_sent_at_all_is_postponed_and_given_up(engine: sa.Engine, receiver: Receiver) -> None:
    clock = Clock()
    wrong = Webhook(WebhookSettings("wrong", url="http://127.0.0.1:99999/s3cret-token"))
    outbox = Outbox(engine, [wrong, Webhook(WebhookSettings("ops", url=receiver.url))], now=clock)
    AlarmBook(engine, AlertSettings(), outbox).record("assistant", "tick", [finding()], clock.at)

    sent = outbox.send_due()

    assert (sent.delivered, sent.failed) == (1, 1)
    assert "s3cret-token" not in str(sent.errors)
    given_up = []
    for _ in range(2):
        clock.move(hours=25)
        given_up.append(outbox.send_due().given_up)
    assert given_up == [0, 1], "a clock that leaps once makes no alert too old"
