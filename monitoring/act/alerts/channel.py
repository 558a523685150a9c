"""What a channel is, and what it says when it cannot deliver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from llmops.errors import CannotRun

TIMEOUT_SECONDS = 10.0
"""Longest that one attempt may take to connect, and then between two answers of the other side."""


class NotDelivered(CannotRun):
    """An attempt failed; another may work. The text names the channel and never an address's path, key or password.

    retry_after: seconds that the receiver asked to wait.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Channel(Protocol):
    """Delivers alerts to one receiver. apps: those it is told of; empty for all."""

    @property
    def name(self) -> str: ...

    @property
    def apps(self) -> tuple[str, ...]: ...

    def send(self, alert: Mapping[str, Any]) -> None:
        """Delivers one alert, in the shape of `monitoring.act.alerts.message`. Raises NotDelivered."""
        ...


def secret(channel: str, variables: Mapping[str, str], name: str) -> str:
    """The value of the environment variable that a channel names. Raises NotDelivered, naming the variable."""
    value = variables.get(name, "").strip()
    if not value:
        raise NotDelivered(f"{channel}: the environment variable {name} is empty")
    return value
