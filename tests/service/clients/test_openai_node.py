"""The official npm package, unchanged. It is installed once, below the user's cache folder."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("openai_node.mjs")
SAID = "You said: hello world"


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
