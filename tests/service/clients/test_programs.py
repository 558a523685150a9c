"""Programs beside Python's clients, unchanged: curl, as the docs show it, the `llm` command line and the npm package.

`llm` and the npm package are installed once, below the user's cache folder.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

JSON = ("-H", "content-type: application/json")
LLM = Path.home() / ".cache" / "llmops-test-clients" / "llm"
SAID = "You said: hello world"


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)


@pytest.fixture
def curl(base_url):
    """Runs `curl … URL`, which posts a chat; returns what it printed."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    def call(*arguments, path="chat/completions", **fields):
        body = {"model": "assistant", "messages": [{"role": "user", "content": "hello world"}], **fields}
        done = run("curl", "-sS", *arguments, f"{base_url}/{path}", "-d", json.dumps(body))
        return done.stdout

    return call


def test_curl_chats_and_streams_and_reads_the_headers(curl):
    reply = curl(*JSON)
    assert json.loads(reply)["choices"][0]["message"]["content"] == SAID
    streamed = curl("-N", *JSON, stream=True)
    events = [line for line in streamed.splitlines() if line]
    assert all(event.startswith("data: ") for event in events)
    assert events[-1] == "data: [DONE]"
    reply = curl("-i", "-H", "x-request-id: mine", *JSON)
    head = reply.partition("\r\n\r\n")[0].lower().splitlines()
    assert {"x-request-id: mine", "x-llmops-release: assistant@2", "x-llmops-model: tiny@2"} <= set(head)
    reply = curl("-H", "expect: 100-continue", *JSON)  # as it does for large bodies
    assert json.loads(reply)["model"] == "assistant@2"


@pytest.fixture(scope="module")
def llm_program():
    program = LLM / "bin" / "llm"
    if not program.exists():
        venv.create(LLM, with_pip=True, clear=True)
        done = run(str(LLM / "bin" / "python"), "-m", "pip", "install", "--quiet", "llm")
        if done.returncode:
            pytest.skip(f"pip cannot install llm: {done.stderr.strip()[-200:]}")
    return program


@pytest.mark.slow
def test_llm_prompts_continues_a_conversation_and_asks_for_a_schema(llm_program, base_url, tmp_path):
    # Configured as its own docs say for servers that speak OpenAI's language.
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: assistant\n  model_name: assistant\n  api_base: {base_url}\n  supports_schema: true\n"
    )

    def llm(*arguments):
        done = run(str(llm_program), "-m", "assistant", *arguments, env={**os.environ, "LLM_USER_PATH": str(tmp_path)})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert llm("hello world") == llm("--no-stream", "hello world") == SAID
    options = ("-o", "max_tokens", "3", "-o", "temperature", "0.5")
    assert llm("-s", "Be brief.", *options, "hello all") == "You said: hello"
    assert llm("-c", "and again") == "You said: and again"
    assert '"Ada"' in llm("--schema", "name, age int", "who?")
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('llm') is not None)"
    assert run(sys.executable, "-c", code).returncode == 0, "our own environment has no llm"


@pytest.mark.slow
def test_every_route_from_node(base_url, node_modules):
    done = run("node", str(Path(__file__).with_name("openai_node.mjs")), str(node_modules), base_url)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {told[name] for name in ("chat", "streamed", "completion", "response", "responseStreamed")} == {SAID}
    assert (told["release"], told["tokens"]) == ("assistant@2", 4)
    assert told["structured"] == {"name": "Ada", "age": 36}
    assert (told["kinds"][0], told["kinds"][-1]) == ("response.created", "response.completed")
    assert told["vectors"] == [[3, 0.5], [9, 0.5]]
    assert "assistant@3" in told["models"]
    assert told["error"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
