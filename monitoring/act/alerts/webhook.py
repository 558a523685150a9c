"""Alerts as JSON to a webhook, signed; and to Slack-compatible incoming webhooks.

The signature is `X-Llmops-Signature: t=<unix seconds>,v1=<hex>`, where the hex is HMAC-SHA256 of `<t>.<body>` under the
secret. The time is part of what is signed, so that a receiver can refuse an old message that is sent again.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from monitoring.act.alerts.channel import TIMEOUT_SECONDS, NotDelivered, secret
from monitoring.act.alerts.message import ROWS_SHOWN, text, title
from monitoring.act.alerts.settings import SlackSettings, WebhookSettings, check_url

_COLOURS = {"opened": "#d0021b", "lasting": "#d0021b", "resolved": "#2e7d32", "action": "#1565c0"}
_MOST_TEXT = 2900  # Slack takes 3,000 characters in one section


@dataclass(frozen=True, slots=True)
class Webhook:
    """Posts the alert itself. A repeated id is the same alert: see the headers `X-Llmops-Alert-Id`, `Idempotency-Key`.

    variables: environment variables by name, as far as the settings name them; never shown.
    """

    settings: WebhookSettings
    variables: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def apps(self) -> tuple[str, ...]:
        return self.settings.apps

    def send(self, alert: Mapping[str, Any]) -> None:
        body = orjson.dumps(alert)
        headers = {"X-Llmops-Alert-Id": str(alert["id"]), "Idempotency-Key": str(alert["id"])}
        if self.settings.secret_variable:
            key = secret(self.name, self.variables, self.settings.secret_variable)
            headers["X-Llmops-Signature"] = signature(key, body, int(time.time()))
        _post(self.name, _address(self.settings, self.variables), body, headers)


@dataclass(frozen=True, slots=True)
class Slack:
    """Posts text that any Slack-compatible server shows, with blocks and a colour for those that know them."""

    settings: SlackSettings
    variables: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def apps(self) -> tuple[str, ...]:
        return self.settings.apps

    def send(self, alert: Mapping[str, Any]) -> None:
        _post(self.name, _address(self.settings, self.variables), orjson.dumps(slack_message(alert)), {})


def slack_message(alert: Mapping[str, Any]) -> dict[str, Any]:
    """`text` is what notifications and servers without blocks show."""
    body = _escaped(text(alert).partition("\n\n")[2])[:_MOST_TEXT]
    links = [f"<{row['url']}|{_escaped(row['request_id'])}>" for row in alert.get("rows", ()) if row.get("url")]
    blocks: list[dict[str, Any]] = [{"type": "section", "text": {"type": "mrkdwn", "text": body}}]
    if links:
        shown = " ".join(links[:ROWS_SHOWN])[:_MOST_TEXT]
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": shown}]})
    attachment = {"color": _COLOURS[alert["event"]], "fallback": title(alert), "blocks": blocks}
    return {"text": _escaped(title(alert)), "attachments": [attachment]}


def signature(key: str, body: bytes, at: int) -> str:
    """The value of `X-Llmops-Signature`; at: seconds since the epoch."""
    signed = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={signed}"


def verify(key: str, body: bytes, header: str, *, now: float, tolerance: float = 300.0) -> bool:
    """What a receiver checks: the body is signed with the key, and not longer ago than `tolerance` seconds."""
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    at = fields.get("t", "")
    if not (at.isascii() and at.isdigit()) or abs(now - int(at)) > tolerance:
        return False
    return hmac.compare_digest(signature(key, body, int(at)).encode(), header.encode())


def _address(settings: WebhookSettings | SlackSettings, variables: Mapping[str, str]) -> str:
    if settings.url:
        return settings.url
    url = secret(settings.name, variables, settings.url_variable)
    check_url(settings.url_variable, url)
    return url


def _post(channel: str, url: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Errors name the host alone: the path of such an address is often its password."""
    import httpx

    host = httpx.URL(url).host
    sent = {"Content-Type": "application/json", "User-Agent": "llmops-monitor", **headers}
    try:
        # Redirects are not followed: a signed message goes where the file says, and nowhere else.
        # The body of an answer is not read: it may be without end.
        with httpx.stream(
            "POST", url, content=body, headers=sent, timeout=TIMEOUT_SECONDS, follow_redirects=False
        ) as reply:
            pass
    except httpx.HTTPError as error:
        raise NotDelivered(f"{channel}: {host} cannot be reached: {type(error).__name__}") from None
    if not reply.is_success:
        wait = reply.headers.get("retry-after", "")
        raise NotDelivered(
            f"{channel}: {host} answered {reply.status_code}", retry_after=float(wait) if wait.isdecimal() else None
        )


def _escaped(value: str) -> str:
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
