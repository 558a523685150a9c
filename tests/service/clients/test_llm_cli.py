"""The `llm` command line, in an environment of its own below the user's cache folder."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FOLDER = Path.home() / ".cache" / "llmops-test-clients" / "llm"


@pytest.fixture(scope="module")
def command() -> Path:
    program = FOLDER / "bin" / "llm"
    if not program.exists():
        venv.create(FOLDER, with_pip=True, clear=True)
        install = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "llm"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot install llm: {done.stderr.strip()[-200:]}")
    return program


@pytest.fixture
def llm(command, base_url, tmp_path):
    """Runs `llm …`, configured as its own docs say for servers that speak OpenAI's language."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: assistant\n  model_name: assistant\n  api_base: {base_url}\n  supports_schema: true\n"
    )
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [str(command), *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_it_prompts(llm):
    assert llm("-m", "assistant", "hello world") == "You said: hello world"
    assert llm("-m", "assistant", "--no-stream", "hello world") == "You said: hello world"


def test_it_continues_a_conversation_with_a_system_prompt_and_options(llm):
    options = ("-o", "max_tokens", "3", "-o", "temperature", "0.5")
    assert llm("-m", "assistant", "-s", "Be brief.", *options, "hello all") == "You said: hello"
    assert llm("-m", "assistant", "-c", "and again") == "You said: and again"


def test_it_asks_for_a_schema(llm):
    assert '"Ada"' in llm("-m", "assistant", "--schema", "name, age int", "who?")


def test_our_own_environment_has_no_llm():
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('llm') is not None)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
