"""What a server does not take of the fields that every request has, learnt from its refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""Two names of one field: reasoning models of OpenAI's refuse the older one, servers of before 2024 the newer one."""

_SPARE: Mapping[str, Any] = {"top_p": 1, "temperature": 1, "stream_options": {"include_usage": True}}
"""Fields that change no answer where they have this value, so that a server which refuses them is asked without."""

_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|not allowed|unexpected|extra_", re.IGNORECASE
)


class SentFields:
    """The fields of one server. It forgets nothing, and may be shared by threads."""

    def __init__(self) -> None:
        self._refused: frozenset[str] = frozenset()

    def fitted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a request without what the server has refused, or with it by its other name."""
        fitted = dict(body)
        for name in self._refused & body.keys():
            if name in _LIMITS:
                fitted[_LIMITS[name]] = fitted.pop(name)
            elif _SPARE[name] == body[name]:
                del fitted[name]
        return fitted

    def learn(self, sent: Mapping[str, Any], status: int, content: bytes) -> bool:
        """Takes note of a refusal; whether the same request can be sent otherwise now.

        sent: the body that was refused. content: what the server said.
        """
        if status not in (400, 422):
            return False
        said = content.decode(errors="replace")
        if not _UNKNOWN.search(said):
            return False
        for name in sent.keys() & {*_LIMITS, *_SPARE}:
            other = _LIMITS.get(name)
            free = other not in self._refused if other is not None else _SPARE[name] == sent[name]
            if free and re.search(rf"\b{name}\b", said):
                self._refused |= {name}
                return True
        return False
