"""The source of a model that upstream servers answer for: `openai:URL#MODEL`, or several servers,
`openai:URL*WEIGHT,URL*WEIGHT#MODEL`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from llmops.errors import UsageError

FORM = "openai:http://HOST/v1#MODEL, or for several servers openai:URL*WEIGHT,URL*WEIGHT#MODEL"
NO_KEY = "-"

_SOURCE = re.compile(r"openai:(?P<servers>https?://[^\s#]+)#(?P<model>\S+)\Z")
_CREDENTIALS = re.compile(r"://[^/#\s]*@")
_NEXT_SERVER = re.compile(r",(?=https?://)")
_SERVER = re.compile(r"(?P<url>https?://[^\s#]+?)(?:\*(?P<weight>[0-9]{1,6}))?\Z")


@dataclass(frozen=True, slots=True)
class UpstreamServer:
    """One server: its base URL, its share of the requests against the others' weights, and the name of the environment
    variable that holds its key."""

    url: str
    weight: int = 1
    key_variable: str | None = None


@dataclass(frozen=True, slots=True)
class UpstreamSource:
    """Servers that all answer for `model`, by that name."""

    servers: tuple[UpstreamServer, ...]
    model: str

    @classmethod
    def parse(cls, source: str, key_variables: Any = None) -> UpstreamSource:
        """Reads a model's source and its provenance's `key_variable`.

        key_variables: one name for all servers, or one for each in their order, with commas; `-` for one without a key.

        Raises:
            UsageError: not of these forms; a user or password in it, which is not repeated; a weight of 0; a server
                named twice; not as many keys as servers.
        """
        if _CREDENTIALS.search(source):
            # A source is recorded, shown and logged: what opens a server must not be in it.
            raise UsageError(
                "a source holds no user and password, which everybody who sees the model would see; name the variable "
                "of the environment that holds the server's key (--key-env)"
            )
        found = _SOURCE.match(source)
        if not found:
            raise UsageError(f"{source!r} is not of the form {FORM}")
        named = [_SERVER.match(text) for text in _NEXT_SERVER.split(found["servers"])]
        servers = [(server["url"].rstrip("/"), int(server["weight"] or 1)) for server in named if server]
        if len(servers) != len(named):
            raise UsageError(f"{source!r} is not of the form {FORM}")
        if any(weight == 0 for _, weight in servers):
            raise UsageError(f"{source!r}: a weight is 1 or more; leave out a server that shall get no requests")
        if len({url for url, _ in servers}) != len(servers):
            raise UsageError(f"{source!r} names a server twice; give it a weight instead")
        keys = _keys(str(key_variables or NO_KEY), len(servers))
        return cls(
            tuple(UpstreamServer(url, weight, key) for (url, weight), key in zip(servers, keys, strict=True)),
            found["model"],
        )


def _keys(text: str, servers: int) -> list[str | None]:
    names = [None if name.strip() == NO_KEY else name.strip() for name in text.split(",")]
    if not all(name is None or name for name in names):
        raise UsageError(f"{text!r}: a key's variable has no name; write {NO_KEY} for a server without a key")
    if len(names) == 1:
        names *= servers
    if len(names) != servers:
        raise UsageError(f"{text!r} names {len(names)} keys for {servers} servers; give one for all, or one for each")
    return names
