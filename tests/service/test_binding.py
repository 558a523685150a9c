from __future__ import annotations

import pytest

from llmops.errors import UsageError
from service.server import check_bind, listen


@pytest.mark.parametrize(
    ("host", "address"),
    [("localhost", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), ("127.8.8.8", "127.8.8.8"), ("::1", "::1")],
)
@pytest.mark.parametrize("has_keys", [False, True])
def test_loopback_needs_no_keys(host, address, has_keys):
    assert str(check_bind(host, has_keys)) == address


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "::ffff:192.0.2.1"])  # noqa: S104  beyond loopback
def test_beyond_loopback_needs_keys(host):
    with pytest.raises(UsageError, match="llmops keys create"):
        check_bind(host, has_keys=False)
    assert check_bind(host, has_keys=True).version == (6 if ":" in host else 4)


@pytest.mark.parametrize("host", ["", "example.org", "127.0.0.1:80", "1"])
@pytest.mark.parametrize("has_keys", [False, True])
def test_a_host_is_an_ip_address(host, has_keys):
    with pytest.raises(UsageError, match="is not an IP address"):
        check_bind(host, has_keys)


def test_a_socket_listens_beyond_loopback_once_there_are_keys():
    with pytest.raises(UsageError, match="needs keys"):
        listen("0.0.0.0", 0)  # noqa: S104
    with listen("0.0.0.0", 0, has_keys=True) as listener:  # noqa: S104
        assert listener.getsockname()[0] == "0.0.0.0"  # noqa: S104
