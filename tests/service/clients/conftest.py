"""One gateway for all clients: it says text back, and gives JSON where JSON is asked for."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from llmops.engines.fake import FakeEngine, echo
from tests.service.conftest import embed, release

NODE = Path.home() / ".cache" / "llmops-test-clients" / "node"
PERSON = {"name": "Ada", "age": 36}


def answer(request):
    return json.dumps(PERSON) if request.parameters.response_format else echo(request)


@pytest.fixture(scope="module")
def clients_gateway(serve_shared):
    releases = [release(1), release(2, "champion"), release(3, tone="polite")]
    with serve_shared(*releases, engine=lambda model: FakeEngine(answer, name=model.ref), embed=embed) as gateway:
        yield gateway


@pytest.fixture
def base_url(clients_gateway):
    return f"{clients_gateway.url}/v1"


@pytest.fixture(scope="module")
def node_modules():
    """A folder with the official npm package, which is installed once, below the user's cache folder."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    if not (NODE / "node_modules" / "openai").is_dir():
        NODE.mkdir(parents=True, exist_ok=True)
        (NODE / "package.json").write_text('{"private": true}\n')
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "openai"]
        done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"npm cannot install openai: {done.stderr.strip()[-200:]}")
    return NODE
