"""The `[alerts]` table of the monitor's configuration: who is told of alarms, by which channel, and how often.

docs/alerts.md documents the table, and the JSON of an alert, which is kept in the outbox and posted as it is. A secret
never stands in the file: the file names the environment variable that holds it.
"""

import hashlib
import hmac
import shlex
import smtplib
import ssl
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import orjson

from llmops.engines.openai_errors import retry_seconds
from llmops.errors import CannotRun, UsageError
from llmops.settings import named_variables
from monitoring.tables import ConfigTable, Duration, Texts, read_dataclass

TIMEOUT_SECONDS = 10.0
"""Longest that one attempt may take to connect, and then between two answers of the other side."""
_PORTS = {"starttls": 587, "tls": 465, "none": 25}
ROWS_SHOWN = 5
_HEADS = {"opened": "ALARM", "lasting": "STILL ALARMING", "resolved": "RESOLVED"}
_COLOURS = {"opened": "#d0021b", "lasting": "#d0021b", "resolved": "#2e7d32", "action": "#1565c0"}
_MOST_TEXT = 2900  # Slack takes 3,000 characters in one section


class NotDelivered(CannotRun):
    """An attempt failed; another may work. The text names the channel and never an address's path, key or password.
    retry_after: seconds that the receiver asked to wait."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class _HttpChannel:
    """Exactly one of url and url_variable is set. apps: those it is told of; empty for all."""

    name: str
    url: str = ""
    url_variable: str = ""
    apps: Texts = ()

    def __post_init__(self) -> None:
        if bool(self.url) == bool(self.url_variable):
            raise UsageError("url: give either url or url_variable")
        if self.url:
            check_url("url", self.url)

    def _post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Errors name the host alone: the path of such an address is often its password."""
        import httpx

        url = self.url or _secret(self.name, self.url_variable)
        check_url(self.url_variable, url)
        host = httpx.URL(url).host
        sent = {"Content-Type": "application/json", "User-Agent": "llmops-monitor", **headers}
        try:
            # httpx follows no redirects: a signed message goes where the file says, and nowhere else.
            # The body of an answer is not read: it may be without end.
            with httpx.stream("POST", url, content=body, headers=sent, timeout=TIMEOUT_SECONDS) as reply:
                pass
        except httpx.HTTPError as error:
            raise NotDelivered(f"{self.name}: {host} cannot be reached: {type(error).__name__}") from None
        if not reply.is_success:
            wait = retry_seconds(reply.headers.get("retry-after"))
            raise NotDelivered(f"{self.name}: {host} answered {reply.status_code}", retry_after=wait)


@dataclass(frozen=True)
class Webhook(_HttpChannel):
    """Posts the alert itself as JSON. A repeated id is the same alert: see the headers `X-Llmops-Alert-Id` and
    `Idempotency-Key`.

    The signature is `X-Llmops-Signature: t=<unix seconds>,v1=<hex>`, where the hex is HMAC-SHA256 of `<t>.<body>` under
    the secret. The time is part of what is signed, so that a receiver can refuse an old message that is sent again.
    """

    secret_variable: str = ""

    def send(self, alert: Mapping[str, Any]) -> None:
        """Delivers one alert. Raises NotDelivered, as all channels do."""
        body = orjson.dumps(alert)
        headers = {"X-Llmops-Alert-Id": str(alert["id"]), "Idempotency-Key": str(alert["id"])}
        if self.secret_variable:
            key, at = _secret(self.name, self.secret_variable), int(time.time())
            signature = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
            headers["X-Llmops-Signature"] = f"t={at},v1={signature}"
        self._post(body, headers)


@dataclass(frozen=True)
class Slack(_HttpChannel):
    """Posts text that any Slack-compatible incoming webhook shows (Slack, Mattermost, Rocket.Chat, …), with blocks and
    a colour for those that know them. The address is a secret."""

    def send(self, alert: Mapping[str, Any]) -> None:
        """Delivers one alert."""
        self._post(orjson.dumps(slack_message(alert)), {})


@dataclass(frozen=True)
class Email:
    """Sends plain text through one SMTP server. The Message-ID follows from the alert's id, so that a second delivery
    is known.

    security: STARTTLS (port 587), TLS from the start (465), or none (25).
    """

    name: str
    host: str
    sender: str = field(metadata={"key": "from"})
    to: Texts
    port: int = 0
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password_variable: str = ""
    apps: Texts = ()

    def __post_init__(self) -> None:
        if not self.to:
            raise UsageError("to: name at least one address")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port: must be from 0 to 65535, not {self.port}")
        if any("\n" in address or "\r" in address for address in (self.sender, *self.to)):
            raise UsageError("to: an address is one line")
        if bool(self.user) != bool(self.password_variable):
            raise UsageError("user: give user and password_variable together")
        if self.user and self.security == "none" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError("security: a password would be sent in the clear; choose starttls or tls")

    def send(self, alert: Mapping[str, Any]) -> None:
        """Delivers one alert."""
        message = self.message(alert)
        password = _secret(self.name, self.password_variable) if self.user else ""
        context = ssl.create_default_context() if self.security != "none" else None
        connect = partial(smtplib.SMTP_SSL, context=context) if self.security == "tls" else smtplib.SMTP
        try:
            with connect(self.host, self.port or _PORTS[self.security], timeout=TIMEOUT_SECONDS) as server:
                if self.security == "starttls":
                    server.starttls(context=context)
                if self.user:
                    server.login(self.user, password)
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            # Without what was said: a server may repeat addresses or a login.
            shown = f"{type(error).__name__} {getattr(error, 'smtp_code', '')}".strip()
            raise NotDelivered(f"{self.name}: {self.host}: {shown}") from None

    def message(self, alert: Mapping[str, Any]) -> EmailMessage:
        """The mail that tells of an alert."""
        message, alert_id = EmailMessage(), str(alert["id"])
        message["Subject"] = f"[llmops] {title(alert)}"[:200]
        message["From"], message["To"], message["Date"] = self.sender, ", ".join(self.to), formatdate()
        message["Message-ID"], message["X-Llmops-Alert-Id"] = f"<{alert_id}@llmops.monitor>", alert_id
        message.set_content(text(alert).encode(errors="replace").decode())
        return message


Channel = Webhook | Slack | Email


@dataclass(frozen=True)
class PrometheusSettings:
    """textfile: where the state is written for node-exporter's textfile collector; empty for nowhere."""

    textfile: str = ""

    def __post_init__(self) -> None:
        if self.textfile and not self.textfile.endswith(".prom"):
            raise UsageError("textfile: the collector reads only names that end in .prom")


@dataclass(frozen=True)
class AlertSettings:
    """cool_down, give_up_after: seconds. row_url: an address with `{request_id}`. mlflow_url: of MLflow's UI."""

    cool_down: Duration = 6 * 3600.0
    tell_resolved: bool = True
    give_up_after: Duration = 24 * 3600.0
    row_url: str = ""
    mlflow_url: str = ""
    webhook: tuple[Webhook, ...] = ()
    slack: tuple[Slack, ...] = ()
    email: tuple[Email, ...] = ()
    prometheus: PrometheusSettings = PrometheusSettings()

    def __post_init__(self) -> None:
        for name, count in Counter(channel.name for channel in self.channels).items():
            if count > 1:
                raise UsageError(f"name: two channels are called {name!r}")
        if self.row_url and "{request_id}" not in self.row_url:
            raise UsageError("row_url: must contain {request_id}")
        for name, url in (("row_url", self.row_url), ("mlflow_url", self.mlflow_url)):
            if url:
                check_url(name, url)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """All of them."""
        return (*self.webhook, *self.slack, *self.email)

    def row_links(self, request_ids: Iterable[str]) -> list[dict[str, str]]:
        """How to see each request: as a command, and as an address where `row_url` is set."""
        links = []
        for request_id in request_ids:
            link = {"request_id": request_id, "show": f"llmops log show {shlex.quote(request_id)}"}
            if self.row_url:
                link["url"] = self.row_url.replace("{request_id}", quote(request_id, safe=""))
            links.append(link)
        return links

    def run_url(self, run_id: str | None) -> str | None:
        """Where MLflow's UI shows a run, where `mlflow_url` is set; it finds the experiment by itself."""
        url = self.mlflow_url.rstrip("/")
        return f"{url}/#/runs/{quote(run_id, safe='')}" if url and run_id else None


def read_alerts(values: Mapping[str, Any], file: Path | str) -> AlertSettings:
    """Reads `[alerts]` as TOML gives it; nobody is told where it is empty.

    Raises BadFile: an unknown key (names the nearest one) or a wrong value; names file and key.
    """
    read, table = dict(values), ConfigTable(values, file, "alerts")
    kinds: dict[str, type[Channel]] = {"webhook": Webhook, "slack": Slack, "email": Email}
    for kind in kinds.keys() & read.keys():
        given = read[kind]
        if not isinstance(given, Sequence) or not all(isinstance(item, Mapping) for item in given):
            raise table.wrong(kind, f"must be tables: [[alerts.{kind}]]")
        channels = []
        for number, item in enumerate(given, 1):
            name = kind if len(given) == 1 else f"{kind}-{number}"  # unless it names itself
            channels.append(read_dataclass(kinds[kind], {"name": name, **item}, file, f"alerts.{name}"))
        read[kind] = tuple(channels)
    if "prometheus" in read:
        given = table.mapping("prometheus")
        read["prometheus"] = read_dataclass(PrometheusSettings, given, file, "alerts.prometheus")
    return read_dataclass(AlertSettings, read, file, "alerts")


def title(alert: Mapping[str, Any]) -> str:
    """One line: what happened, to whom."""
    where = alert.get("release") or alert["app"]
    if alert["event"] == "action":
        mode = "dry run, nothing was done: " if alert["dry_run"] else ""
        failed = "" if alert.get("succeeded", True) else " FAILED"
        told = f"ACTION{failed} {mode}{alert['action']} of {where}"
    else:
        others = len(alert.get("parts", ())) - 1
        more = f" and {others} more" if others > 0 else ""
        told = f"{_HEADS[alert['event']]} {alert['what']} ({alert['kind']}, {alert['severity']}){more} in {where}"
    return " ".join(told.split())


def text(alert: Mapping[str, Any]) -> str:
    """The whole alert for a person, in plain lines."""
    lines = [title(alert), ""]
    if alert["event"] == "action":
        lines.append(str(alert["why"]))
        lines += [f"  {name}: {value}" for name, value in (alert.get("outcome") or {}).items()]
        lines += _rows(alert)
    else:
        parts = alert.get("parts") or [alert]
        for part in parts:
            if len(parts) > 1:  # else the title says already what it is
                told = f"{part['what']} ({part['kind']}, {part['severity']}): {part['release'] or ''}"
                lines.append(" ".join(told.split()))
            seen = f"first {part['first_at']}, last {part['last_at']}, seen {part['times']} times"
            lines += [str(part["why"]), seen, *_rows(part)]
    if alert.get("policy"):
        lines.append(f"no {alert['policy']['wanted']} was made: {alert['policy']['why']}")
    if alert.get("run_url"):
        lines.append(f"MLflow: {alert['run_url']}")
    lines += ["", f"alert {alert['id']}; llmops monitor alarms list"]
    return "\n".join(lines)


def _rows(part: Mapping[str, Any]) -> list[str]:
    rows = part.get("rows", ())
    lines = [f"  {row.get('url') or row['show']}" for row in rows[:ROWS_SHOWN]]
    return [*lines, f"  and {len(rows) - ROWS_SHOWN} more rows"] if len(rows) > ROWS_SHOWN else lines


def slack_message(alert: Mapping[str, Any]) -> dict[str, Any]:
    """`text` is what notifications and servers without blocks show."""
    body = escape(text(alert).partition("\n\n")[2], quote=False)[:_MOST_TEXT]
    links = [
        f"<{row['url']}|{escape(row['request_id'], quote=False)}>" for row in alert.get("rows", ()) if row.get("url")
    ]
    blocks: list[dict[str, Any]] = [{"type": "section", "text": {"type": "mrkdwn", "text": body}}]
    if links:
        shown = " ".join(links[:ROWS_SHOWN])[:_MOST_TEXT]
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": shown}]})
    attachment = {"color": _COLOURS[alert["event"]], "fallback": title(alert), "blocks": blocks}
    return {"text": escape(title(alert), quote=False), "attachments": [attachment]}


def check_url(name: str, url: str) -> None:
    """Raises UsageError, which does not show the address, unless it is http(s) without a password."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.password is None
    except ValueError:
        fits = False
    if not fits or not url.isprintable():
        raise UsageError(f"{name}: must be an http:// or https:// address without a password")


def _secret(channel: str, variable: str) -> str:
    """The value of the environment variable that a channel names. Raises NotDelivered, naming the variable."""
    if value := named_variables([variable]).get(variable, "").strip():
        return value
    raise NotDelivered(f"{channel}: the environment variable {variable} is empty")
