from __future__ import annotations

from llmops.engines.fake import FakeEngine
from llmops.errors import EngineUnavailable


class Opener:
    """Opens fake engines, and fails while `failure` is set."""

    failure = None

    def __call__(self, model):
        if self.failure is not None:
            raise self.failure
        return FakeEngine(name=model.ref)


def test_a_load_failure_over_http_is_503_with_retry_after(serve, wait_until):
    opener = Opener()
    opener.failure = EngineUnavailable("weights in /secret are missing")
    with serve(engine=opener, until_ready=False) as gateway:
        wait_until(lambda: gateway.http.get("/readyz").json()["engines"]["failures"])
        reply = gateway.chat()
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert "/secret" not in reply.text
        assert "/secret" in gateway.records()[0].details["error"]
        opener.failure = None
        assert gateway.chat().status_code == 200
        wait_until(gateway.ready)
