"""Whether a server answers, before a run relies on it."""

import pytest

from deploy.services.servers import free_port
from llmops.engines.openai_errors import check_reachable
from llmops.errors import EngineUnavailable
from tests.engines.upstream_server import reply, serving


def answering(status: int):
    """A server that answers with one status who has not the good key."""

    async def behave(seen, send):
        good = seen.headers.get("authorization") == "Bearer good"
        return await reply(200 if good else status, b"")(seen, send)

    return serving(behave)


@pytest.mark.parametrize("status", [200, 404, 405, 429, 500, 501])
def test_any_answer_of_the_server_itself_will_do(status):
    with answering(status) as server:
        check_reachable("judge j", server.url)


@pytest.mark.parametrize(("status", "why"), [(502, "not available"), (503, "not available"), (401, "refuses the key")])
def test_a_proxy_without_its_server_and_a_refused_key_are_named(status, why):
    with answering(status) as server:
        with pytest.raises(EngineUnavailable, match=f"judge j at {server.url} .*{why}.*: it answered {status}"):
            check_reachable("judge j", server.url, "wrong")
        check_reachable("judge j", server.url, "good")


def test_a_server_that_is_not_there_is_named_with_its_address_and_why():
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(EngineUnavailable, match=rf"^judge j at {url} cannot be reached: .*refused; is it running\?"):
        check_reachable("judge j", url)
    with pytest.raises(EngineUnavailable, match=r"judge j at .* cannot be reached"):
        check_reachable("judge j", "http://no-such-host.invalid/v1")
