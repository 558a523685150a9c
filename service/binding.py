"""Which addresses the gateway may listen on: beyond loopback only with keys."""

from __future__ import annotations

import ipaddress

from llmops.errors import UsageError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_bind(host: str, has_keys: bool) -> IPAddress:
    """The address to listen on.

    has_keys: whether a live key exists, so that strangers can be told from users.

    Raises:
        UsageError: `host` is no IP address, or lies beyond loopback and there is no key.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise UsageError(f"--host: {host!r} is not an IP address") from error
    if not address.is_loopback and not has_keys:
        raise UsageError(f"--host {host}: serving beyond loopback needs keys; make one with `llmops keys create`")
    return address
