"""curl, as the docs show it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

JSON = ("-H", "content-type: application/json")


def curl(*arguments: str) -> str:
    return subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True, timeout=30).stdout


def body(**fields: object) -> tuple[str, str]:
    return "-d", json.dumps({"model": "assistant", "messages": [{"role": "user", "content": "hello"}], **fields})


def test_chat(base_url):
    reply = json.loads(curl(f"{base_url}/chat/completions", *JSON, *body()))
    assert reply["choices"][0]["message"]["content"] == "You said: hello"


def test_chat_streamed(base_url):
    text = curl("-N", f"{base_url}/chat/completions", *JSON, *body(stream=True))
    events = [line for line in text.splitlines() if line]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"


def test_the_headers_name_the_release(base_url):
    text = curl("-i", "-H", "x-request-id: mine", f"{base_url}/chat/completions", *JSON, *body())
    head = text.partition("\r\n\r\n")[0].lower().splitlines()
    assert {"x-request-id: mine", "x-llmops-release: assistant@2", "x-llmops-model: tiny@2"} <= set(head)


def test_without_a_content_type_the_error_says_what_to_send(base_url):
    reply = json.loads(curl(f"{base_url}/chat/completions", *body()))
    assert "content-type: application/json" in reply["error"]["message"]


def test_large_bodies_with_expect_100_continue(base_url):
    reply = curl("-H", "expect: 100-continue", f"{base_url}/chat/completions", *JSON, *body(user="u"))
    assert json.loads(reply)["model"] == "assistant@2"


def test_failing_with_an_exit_code(base_url):
    with pytest.raises(subprocess.CalledProcessError):
        curl("--fail", f"{base_url}/models/nobody")
