from __future__ import annotations

import subprocess
import sys
import time

import httpx

from llmops.settings import Settings
from service.gateway_process import running_gateway

_STARTER = """
import sys, time
from pathlib import Path
from llmops.settings import Settings
from service.gateway_process import running_gateway
with running_gateway(Settings(home=Path(sys.argv[1]), engine="fake")) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def answers(url):
    try:
        return httpx.get(f"{url}/livez", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_a_gateway_ends_with_who_started_it_killed_too(tmp_path):
    starter = subprocess.Popen([sys.executable, "-c", _STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout as printed:
        url = printed.readline().strip()
        assert answers(url)
        starter.kill()
        starter.wait()
    deadline = time.monotonic() + 60
    while answers(url):
        assert time.monotonic() < deadline, "the gateway outlived its starter"
        time.sleep(0.2)


def test_a_gateway_ends_with_the_block(tmp_path):
    with running_gateway(Settings(home=tmp_path, engine="fake")) as url:
        assert answers(url)
    assert not answers(url)
