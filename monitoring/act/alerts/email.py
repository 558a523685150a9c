"""Alerts as plain-text mail."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from monitoring.act.alerts.channel import TIMEOUT_SECONDS, NotDelivered, secret
from monitoring.act.alerts.message import text, title
from monitoring.act.alerts.settings import EmailSettings


@dataclass(frozen=True, slots=True)
class Email:
    """Sends through one SMTP server. The Message-ID follows from the alert's id, so that a second delivery is known.

    authorities: a file of certificates to trust instead of the system's.
    """

    settings: EmailSettings
    variables: Mapping[str, str] = field(repr=False, default_factory=dict)
    authorities: str | None = None

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def apps(self) -> tuple[str, ...]:
        return self.settings.apps

    def send(self, alert: Mapping[str, Any]) -> None:
        message = self.message(alert)
        settings = self.settings
        password = secret(self.name, self.variables, settings.password_variable) if settings.user else ""
        try:
            with self._connected() as server:
                if settings.user:
                    server.login(settings.user, password)
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise NotDelivered(f"{self.name}: {settings.host}: {_shown(error)}") from None

    def message(self, alert: Mapping[str, Any]) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = f"[llmops] {title(alert)}"[:200]
        message["From"] = self.settings.sender
        message["To"] = ", ".join(self.settings.to)
        message["Date"] = formatdate()
        message["Message-ID"] = f"<{alert['id']}@llmops.monitor>"
        message["X-Llmops-Alert-Id"] = str(alert["id"])
        message.set_content(text(alert).encode(errors="replace").decode())
        return message

    def _connected(self) -> smtplib.SMTP:
        settings = self.settings
        port = settings.resolved_port
        if settings.security == "none":
            return smtplib.SMTP(settings.host, port, timeout=TIMEOUT_SECONDS)
        context = ssl.create_default_context(cafile=self.authorities)
        if settings.security == "tls":
            return smtplib.SMTP_SSL(settings.host, port, timeout=TIMEOUT_SECONDS, context=context)
        server = smtplib.SMTP(settings.host, port, timeout=TIMEOUT_SECONDS)
        try:
            server.starttls(context=context)
        except (OSError, smtplib.SMTPException):
            server.close()
            raise
        return server


def _shown(error: Exception) -> str:
    """What went wrong, without what was said: a server may repeat addresses or a login."""
    code = getattr(error, "smtp_code", None)
    return f"{type(error).__name__} {code}" if code is not None else type(error).__name__
