"""The official npm package, unchanged. It is installed once, below the user's cache folder."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("openai_node.mjs")
FOLDER = Path.home() / ".cache" / "llmops-test-clients" / "node"
SAID = "You said: hello world"


@pytest.fixture(scope="module")
def node_modules() -> Path:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    if not (FOLDER / "node_modules" / "openai").is_dir():
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / "package.json").write_text('{"private": true}\n')
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "openai"]
        done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install openai: {done.stderr.strip()[-200:]}")
    return FOLDER


def test_every_route_from_node(base_url, node_modules):
    command = ["node", str(SCRIPT), str(node_modules), base_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {told[name] for name in ("chat", "streamed", "completion", "response", "responseStreamed")} == {SAID}
    assert (told["release"], told["tokens"]) == ("assistant@2", 4)
    assert told["structured"] == {"name": "Ada", "age": 36}
    assert told["kinds"][0] == "response.created"
    assert told["kinds"][-1] == "response.completed"
    assert told["vectors"] == [[3, 0.25], [9, 0.25]]
    assert "assistant@3" in told["models"]
    assert told["error"] == {"name": "NotFoundError", "status": 404, "code": "model_not_found", "param": "model"}
