"""`make demo-services`: the whole loop on PostgreSQL, an S3 store, MLflow's server and Valkey, with two gateways.

    python -m deploy.services.demo              the demo, then what only several gateways can show
    python -m deploy.services.demo COMMAND …    any command, on these services

The services start empty and end with the command. The home, with the model's weights, is kept: `.llmops/services`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from deploy.services.servers import free_port, services

HOME = Path(".llmops/services")
LIMIT = 30
"""Requests a minute of the key whose limit is tried."""

Environment = Mapping[str, str]


class Gateway:
    """A running `llmops serve`: a replica, which shares nothing with another but the services and the weights."""

    def __init__(self, environment: Environment, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._http = httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0))  # dear to make
        command = [_llmops(), "serve", "--port", str(self.port)]
        with (Path(environment["LLMOPS_HOME"]) / f"gateway-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError("a gateway ended before it was ready")
        try:
            return self._http.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """The gateway and its worker at once; its engine process ends with them."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, client: httpx.Client, key: str, text: str) -> httpx.Response:
        body = {"model": "assistant", "messages": [{"role": "user", "content": text}], "max_tokens": 8}
        headers = {"authorization": f"Bearer {key}"}
        return client.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=120)


def main() -> None:
    """Runs the command given, or the demo. Exits as the command does; 1 where a replica broke a promise."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    with services() as variables:
        environment = {**os.environ, **variables, "LLMOPS_HOME": str(HOME.absolute())}
        if sys.argv[1:]:
            sys.exit(subprocess.run(sys.argv[1:], env=environment, check=False).returncode)
        for name, value in variables.items():
            _say(f"{name}={value}")
        _llmops_run(environment, "demo")
        broken = [line for line in replicas(environment) if not line.startswith("ok ")]
        _llmops_run(environment, "monitor", "run", "--app", "assistant", check=False)
        _llmops_run(environment, "audit", "verify")
    sys.exit("\n".join(broken) or 0)


def replicas(environment: Environment) -> Iterator[str]:
    """What two gateways promise together, tried: one line each, which begins with `ok` where it held."""
    limited, free = (
        json.loads(_llmops_run(environment, "keys", "create", "--name", name, *options, "--json"))["key"]
        for name, options in (("limited", ("--requests-per-minute", str(LIMIT))), ("free", ()))
    )
    with two_gateways(environment) as gateways, httpx.Client() as client:
        for tried in (
            partial(limits_hold, gateways, client, limited),
            partial(alias_is_seen, gateways, client, free, environment),
            partial(nothing_acknowledged_is_lost, gateways, free, environment),
        ):
            line = tried()
            _say(line)
            yield line


@contextmanager
def two_gateways(environment: Environment) -> Iterator[Sequence[Gateway]]:
    with ExitStack() as stack:
        gateways = [Gateway(environment) for _ in range(2)]
        for gateway in gateways:
            stack.callback(gateway.process.wait)
            stack.callback(gateway.process.terminate)
        while not all(gateway.ready() for gateway in gateways):
            time.sleep(0.2)
        yield gateways


def limits_hold(gateways: Sequence[Gateway], client: httpx.Client, key: str) -> str:
    """Twice as many requests as a key may send, to both gateways in turn."""
    statuses = Counter(gateways[n % 2].ask(client, key, f"limit {n}").status_code for n in range(2 * LIMIT))
    held = statuses == {200: LIMIT, 429: LIMIT}
    return f"{_verdict(held)} a key of {LIMIT} requests a minute: of {2 * LIMIT} to two gateways {dict(statuses)}"


def alias_is_seen(gateways: Sequence[Gateway], client: httpx.Client, key: str, environment: Environment) -> str:
    """A rollback, from the end of its command until each gateway serves it."""
    release = ("release", "create", "assistant", "--prompt", "qa@1", "--model", "smollm2-135m-instruct@1", "--json")
    created = f"assistant@{json.loads(_llmops_run(environment, *release))['version']}"
    _llmops_run(environment, "promote", created, "--force", "--why", "to see it served")
    seen = []
    since = time.monotonic()
    for gateway in gateways:
        while gateway.ask(client, key, "who?").headers["x-llmops-release"] != created:
            time.sleep(0.02)
        seen.append(time.monotonic() - since)
    _llmops_run(environment, "rollback", "assistant")
    return f"{_verdict(max(seen) < 2)} a moved alias is served after {' and '.join(f'{s:.1f}' for s in seen)} s"


def nothing_acknowledged_is_lost(gateways: Sequence[Gateway], key: str, environment: Environment) -> str:
    """One gateway is killed under load; every request that was answered is in the log."""
    answered: list[str] = []
    ended = threading.Event()

    def client(number: int) -> None:
        with httpx.Client() as http:
            while not ended.is_set():
                try:
                    reply = gateways[number % 2].ask(http, key, f"load {number}")
                except httpx.TransportError:
                    if number % 2:
                        raise
                    return
                if reply.status_code == 200:
                    answered.append(reply.headers["x-request-id"])

    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(client, number) for number in range(8)]
        while len(answered) < 50:
            time.sleep(0.01)
        gateways[0].kill()
        after = len(answered)
        while len(answered) < after + 50:
            time.sleep(0.01)
        ended.set()
        for each in running:
            each.result()
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "log.jsonl"
        _llmops_run(environment, "log", "export", "--app", "assistant", "--out", str(exported))
        ids = {json.loads(line)["request_id"] for line in exported.read_text(encoding="utf-8").splitlines()}
    lost = set(answered) - ids
    return f"{_verdict(not lost)} a gateway was killed: {len(answered)} requests answered, {len(lost)} not in the log"


def _llmops() -> str:
    return str(Path(sys.executable).parent / "llmops")


def _llmops_run(environment: Environment, *arguments: str, check: bool = True) -> Any:
    done = subprocess.run([_llmops(), *arguments], env=environment, check=check, stdout=subprocess.PIPE, text=True)
    if "--json" not in arguments:
        _say(done.stdout.rstrip())
    return done.stdout


def _verdict(held: bool) -> str:
    return "ok " if held else "BROKEN"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
