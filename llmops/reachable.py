"""Whether an OpenAI-compatible server can be asked: its key, and one short request before a long run relies on it."""

from __future__ import annotations

import os

from llmops.errors import EngineUnavailable

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0
_AWAY = frozenset({502, 503, 504})


def check_reachable(what: str, base_url: str, key: str | None = None) -> None:
    """Asks for the server's list of models. Not every server has one, so any answer will do but that of a proxy for a
    server that is away, or of one that refuses the key.

    what: how the error calls it. key: sent as a bearer token.

    Raises:
        EngineUnavailable: naming the address, and why it cannot be reached.
    """
    import httpx

    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        status = httpx.get(f"{base_url}/models", headers=headers, timeout=limits).status_code
    except httpx.ConnectTimeout as error:
        why = f"no connection within {CONNECT_SECONDS:g} s"
        raise EngineUnavailable(f"{what} at {base_url} cannot be reached: {why}") from error
    except httpx.TimeoutException as error:
        raise EngineUnavailable(f"{what} at {base_url} does not answer: nothing within {ANSWER_SECONDS:g} s") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise EngineUnavailable(f"{what} at {base_url} cannot be reached: {why}; is it running?") from error
    if status in _AWAY:
        raise EngineUnavailable(f"{what} at {base_url} is not available: it answered {status}")
    if status in (401, 403):
        raise EngineUnavailable(f"{what} at {base_url} refuses the key: it answered {status}", lasting=True)


def read_key(variable: str, what: str) -> str:
    """The API key that an environment variable of the user's choice holds.

    what: the server, as the error calls it.

    Raises:
        EngineUnavailable: it holds no key, or one that no header can: the HTTP client's own error would show it.
    """
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise EngineUnavailable(f"{what}: the environment variable {variable} holds no key")
    return key
