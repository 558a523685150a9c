"""Where a judge answers: an OpenAI-compatible server, the model to ask there, and how patiently."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from llmops.errors import EngineUnavailable, UsageError
from llmops.reachable import check_reachable


@dataclass(frozen=True, slots=True)
class JudgeEndpoint:
    """A judge model at `base_url` + `/chat/completions`.

    name: what suites call it. key_variable: name of the environment variable that holds the API key; the key itself is
    read for each client and never kept here. timeout: seconds for one request. max_tokens: most tokens of one answer,
    rationale included. side_by_side: requests sent at the same time. retries: further tries after a transient failure.
    """

    name: str
    base_url: str
    model: str
    key_variable: str | None = None
    timeout: float = 60.0
    max_tokens: int = 512
    side_by_side: int = 4
    retries: int = 3

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> JudgeEndpoint:
        """Checked construction from a file or a command line.

        Raises:
            UsageError: an unknown or missing field or a value out of range; the text starts with the field's name.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                raise UsageError(f"{name}: unknown field; known: {', '.join(sorted(fields))}")
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and values.get(name) is None:
                raise UsageError(f"{name}: a judge endpoint needs this field")
        given = {name: value for name, value in values.items() if value is not None}
        for name, value in given.items():
            fits, meaning = _CHECKS[name]
            if not fits(value):
                raise UsageError(f"{name}: must be {meaning}")
        return cls(**{**given, "base_url": given["base_url"].rstrip("/")})

    @property
    def identity(self) -> dict[str, str]:
        """What of an endpoint can change a judgement: which model answers, and where. Never the key."""
        return {"base_url": self.base_url.rstrip("/"), "model": self.model}

    def check(self) -> None:
        """Asks the server something short, before a run relies on it.

        Raises:
            EngineUnavailable: there is no key, or the server cannot be reached; names its address and why.
        """
        check_reachable(f"judge {self.name}", self.base_url, self.read_key())

    def read_key(self) -> str | None:
        """The API key from its environment variable; None when the endpoint has no `key_variable`.

        Raises:
            EngineUnavailable: the variable holds no key. Call it before a run to fail before the first row.
        """
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        # A key that no header can hold must fail here: the HTTP client's own error would show it.
        if not key or not key.isascii() or not key.isprintable():
            raise EngineUnavailable(f"judge {self.name}: the environment variable {self.key_variable} holds no key")
        return key


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_url(value: Any) -> bool:
    """An address to which paths can be added. One with a password would put it into every identity and message."""
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    bare = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and bare


def _is_whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_text, "text, and not empty"),
    "base_url": (_is_url, "an http or https address without user, password, query or fragment"),
    "model": (_is_text, "text, and not empty"),
    "key_variable": (_is_text, "the name of an environment variable"),
    "timeout": (_is_duration, "a number of seconds above 0"),
    "max_tokens": (lambda value: _is_whole(value, 1), "a whole number of 1 or more"),
    "side_by_side": (lambda value: _is_whole(value, 1), "a whole number of 1 or more"),
    "retries": (lambda value: _is_whole(value, 0), "a whole number of 0 or more"),
}
