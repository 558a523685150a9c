"""The `[alerts]` table of the monitor's configuration: who is told of alarms, and how often.

    [alerts]
    cool_down = "6h"                     # before a lasting alarm is told again
    tell_resolved = true
    give_up_after = "24h"                # of trying to deliver one alert
    row_url = "https://ops/log/{request_id}"
    mlflow_url = "https://mlflow.example"

    [[alerts.webhook]]
    name = "ops"
    url = "https://ops.example/hook"     # or url_variable = "NAME": the address is read from that environment variable
    secret_variable = "OPS_HOOK_SECRET"  # signs the body: X-Llmops-Signature

    [[alerts.slack]]
    name = "channel"
    url_variable = "SLACK_WEBHOOK_URL"

    [[alerts.email]]
    name = "on-call"
    host = "smtp.example"
    from = "llmops@example.com"
    to = ["ops@example.com"]
    security = "starttls"                # starttls, tls or none
    user = "llmops"
    password_variable = "SMTP_PASSWORD"

    [alerts.prometheus]
    textfile = "/var/lib/node_exporter/llmops.prom"

A secret never stands in the file: the file names the environment variable that holds it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from urllib.parse import urlsplit

from llmops.errors import BadFile, UsageError
from monitoring.tables import Table

Security = Literal["starttls", "tls", "none"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where alerts are posted as JSON. Exactly one of url and url_variable is set."""

    name: str
    url: str = ""
    url_variable: str = ""
    secret_variable: str = ""
    apps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_address(self.url, self.url_variable)


@dataclass(frozen=True, slots=True)
class SlackSettings:
    """A Slack-compatible incoming webhook (Slack, Mattermost, Rocket.Chat, …). Its address is a secret."""

    name: str
    url: str = ""
    url_variable: str = ""
    apps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_address(self.url, self.url_variable)


@dataclass(frozen=True, slots=True)
class EmailSettings:
    """A mail server and who gets mail. security: STARTTLS (port 587), TLS from the start (465), or none (25)."""

    name: str
    host: str
    sender: str
    to: tuple[str, ...]
    port: int = 0
    security: Security = "starttls"
    user: str = ""
    password_variable: str = ""
    apps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any("\n" in text or "\r" in text for text in (self.sender, *self.to)):
            raise UsageError("to: an address is one line")
        if bool(self.user) != bool(self.password_variable):
            raise UsageError("user: give user and password_variable together")
        if self.user and self.security == "none" and self.host not in ("127.0.0.1", "::1", "localhost"):
            raise UsageError("security: a password would be sent in the clear; choose starttls or tls")

    @property
    def resolved_port(self) -> int:
        return self.port or _PORTS[self.security]


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """textfile: where the state is written for node-exporter's textfile collector; empty for nowhere."""

    textfile: str = ""

    def __post_init__(self) -> None:
        if self.textfile and not self.textfile.endswith(".prom"):
            raise UsageError("textfile: the collector reads only names that end in .prom")


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """cool_down, give_up_after: seconds. row_url: an address with `{request_id}`. mlflow_url: of MLflow's UI."""

    cool_down: float = 6 * 3600.0
    tell_resolved: bool = True
    give_up_after: float = 24 * 3600.0
    row_url: str = ""
    mlflow_url: str = ""
    webhook: tuple[WebhookSettings, ...] = ()
    slack: tuple[SlackSettings, ...] = ()
    email: tuple[EmailSettings, ...] = ()
    prometheus: PrometheusSettings = dataclasses.field(default_factory=PrometheusSettings)

    def __post_init__(self) -> None:
        names = [channel.name for channel in self.channels]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"name: two channels are called {name!r}")
        if self.row_url and "{request_id}" not in self.row_url:
            raise UsageError("row_url: must contain {request_id}")
        for field in ("row_url", "mlflow_url"):
            if value := getattr(self, field):
                check_url(field, value)

    @property
    def channels(self) -> tuple[WebhookSettings | SlackSettings | EmailSettings, ...]:
        return (*self.webhook, *self.slack, *self.email)

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the environment variables that hold the channels' secrets."""
        fields = ("url_variable", "secret_variable", "password_variable")
        named = (getattr(channel, field, "") for channel in self.channels for field in fields)
        return tuple(sorted({name for name in named if name}))


Posted = TypeVar("Posted", WebhookSettings, SlackSettings)


def read_alerts(values: Mapping[str, Any], file: Path | str) -> AlertSettings:
    """Reads `[alerts]` as TOML gives it; nobody is told where it is empty.

    Raises:
        BadFile: an unknown key (names the nearest one) or a wrong value; names file and key.
    """
    with Table(values, file, "alerts") as table:
        try:
            return AlertSettings(
                cool_down=duration(table, "cool_down", "6h"),
                tell_resolved=table.switch("tell_resolved", True),
                give_up_after=duration(table, "give_up_after", "24h"),
                row_url=table.text("row_url", "", empty=True),
                mlflow_url=table.text("mlflow_url", "", empty=True),
                webhook=tuple(_webhook(part) for part in _channels(table, "webhook")),
                slack=tuple(_slack(part) for part in _channels(table, "slack")),
                email=tuple(_email(part) for part in _channels(table, "email")),
                prometheus=_prometheus(Table(table.mapping("prometheus", {}), file, "alerts.prometheus")),
            )
        except UsageError as error:
            raise _of_table(table, error) from error


def duration(table: Table, name: str, default: str) -> float:
    """`90`, `"90s"`, `"30m"`, `"6h"` or `"2d"` in seconds. Raises BadFile."""
    value = table.any(name, default)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip(), re.ASCII)
    if not found or isinstance(value, bool):
        raise table.wrong(name, f"{value!r} is no duration such as 90s, 30m, 6h or 2d")
    return float(found[1]) * _UNITS[found[2] or "s"]


def check_url(name: str, url: str) -> None:
    """Raises UsageError, which does not show the address, unless it is http(s) without a password."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.password is None
    except ValueError:
        fits = False
    if not fits or not url.isprintable():
        raise UsageError(f"{name}: must be an http:// or https:// address without a password")


def _check_address(url: str, url_variable: str) -> None:
    if bool(url) == bool(url_variable):
        raise UsageError("url: give either url or url_variable")
    if url:
        check_url("url", url)


def _channels(table: Table, kind: str) -> list[Table]:
    """The tables of one kind of channel, each with the name it goes by unless it names itself."""
    given = table.any(kind, [])
    if not isinstance(given, Sequence) or not all(isinstance(item, Mapping) for item in given):
        raise table.wrong(kind, f"must be tables: [[alerts.{kind}]]")
    places = [kind if len(given) == 1 else f"{kind}-{number}" for number in range(1, len(given) + 1)]
    return [
        Table({"name": place, **item}, table.file, f"alerts.{place}") for place, item in zip(places, given, strict=True)
    ]


def _webhook(table: Table) -> WebhookSettings:
    with table:
        return _built(table, WebhookSettings, secret_variable=table.text("secret_variable", "", empty=True))


def _slack(table: Table) -> SlackSettings:
    with table:
        return _built(table, SlackSettings)


def _built(table: Table, kind: type[Posted], **more: str) -> Posted:
    texts = {name: table.text(name, "", empty=True) for name in ("url", "url_variable")}
    try:
        return kind(name=table.text("name"), apps=table.texts("apps", ()), **texts, **more)
    except UsageError as error:
        raise _of_table(table, error) from error


def _email(table: Table) -> EmailSettings:
    with table:
        try:
            return EmailSettings(
                name=table.text("name"),
                host=table.text("host"),
                sender=table.text("from"),
                to=table.texts("to"),
                port=table.whole("port", 0, least=0, most=65535),
                security=cast(Security, table.choice("security", _PORTS, "starttls")),
                user=table.text("user", "", empty=True),
                password_variable=table.text("password_variable", "", empty=True),
                apps=table.texts("apps", ()),
            )
        except UsageError as error:
            raise _of_table(table, error) from error


def _prometheus(table: Table) -> PrometheusSettings:
    with table:
        try:
            return PrometheusSettings(table.text("textfile", "", empty=True))
        except UsageError as error:
            raise _of_table(table, error) from error


def _of_table(table: Table, error: UsageError) -> BadFile:
    name, _, problem = str(error).partition(": ")
    return table.wrong(name, problem)
