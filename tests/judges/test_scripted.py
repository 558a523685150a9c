"""The scripted judge speaks OpenAI's protocol, remembers, and lets failures be seen."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from llmops.judges.scripted import ScriptedJudge, completion

BODY = {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}


def test_a_text_becomes_a_completion_and_the_request_is_kept() -> None:
    with ScriptedJudge(lambda request: request["messages"][1]["content"] * 2) as judge:
        reply = httpx.post(f"{judge.base_url}/chat/completions", json=BODY, headers={"X-Mine": "1"})

    assert reply.json()["choices"][0] == {
        "index": 0, "message": {"role": "assistant", "content": "bb"}, "finish_reason": "stop"
    }  # fmt: skip
    assert (judge.requests[0].body, judge.requests[0].headers["x-mine"]) == (BODY, "1")
    assert judge.requests[0].text == "a\n\nb"


def test_a_whole_reply_is_sent_as_it_is() -> None:
    with ScriptedJudge(lambda _: (429, {"retry-after": "1"}, completion("x", "length"))) as judge:
        reply = httpx.post(f"{judge.base_url}/chat/completions", json=BODY)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "1")
    assert reply.json()["choices"][0]["finish_reason"] == "length"


def test_an_exception_of_the_script_is_told_to_the_caller() -> None:
    def fail(_request: dict[str, Any]) -> str:
        raise LookupError("no such answer")

    with ScriptedJudge(fail) as judge:
        reply = httpx.post(f"{judge.base_url}/chat/completions", json=BODY)
    assert (reply.status_code, reply.json()["error"]["message"]) == (500, "LookupError: no such answer")


def test_another_path_is_not_there() -> None:
    with ScriptedJudge(lambda _: "x") as judge:
        assert httpx.post(f"{judge.base_url}/completions", json=BODY).status_code == 404
        assert judge.requests == []


def test_after_the_context_nobody_answers() -> None:
    with ScriptedJudge(lambda _: "x") as judge:
        address = f"{judge.base_url}/chat/completions"
    with pytest.raises(httpx.ConnectError):
        httpx.post(address, json=BODY)
