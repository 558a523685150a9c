from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize("sane", ["abc", "a b~!", "x" * 128])
def test_a_sane_request_id_is_echoed(shared_gateway, sane):
    assert shared_gateway.http.get("/livez", headers={"x-request-id": sane}).headers["x-request-id"] == sane


@pytest.mark.parametrize("odd", [b"", b"x" * 129, b"caf\xc3\xa9", b"a\tb"])
def test_any_other_request_id_is_replaced(shared_gateway, odd):
    echoed = shared_gateway.http.get("/livez", headers={b"x-request-id": odd}).headers["x-request-id"]
    assert echoed.startswith("req_")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_413(serve, chunked):
    body = b'{"model": "assistant", "messages": [{"role": "user", "content": "%s"}]}' % (b"x" * 5000)
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    with serve(max_body_bytes=2000) as gateway, httpx.Client(base_url=gateway.url) as http:
        headers = {"content-type": "application/json"}
        reply = http.post("/v1/chat/completions", content=pieces if chunked else body, headers=headers)
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "body_too_large"
        assert reply.headers["x-request-id"]
        assert gateway.chat().status_code == 200
        assert len(gateway.records()) == 1
