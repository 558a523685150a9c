"""The gateways that are compared, each started on the stub upstream: ours as a user would set it up, and the peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway.processes import Server, ServerFailed, free_port, python

DEFAULT_CACHE = Path(os.environ.get("BENCH_PEERS") or "~/.cache/llmops-bench").expanduser()
"""Where peers have their environments."""
LITELLM = "1.106.2"
MASTER_KEY = "sk-bench"
PROMPT = """\
---
input_variable: text
parameters: {max_tokens: 32, temperature: 0}
---
# system
You are terse.

# user
{{ text }}
"""
_LITELLM_CONFIG = """\
model_list:
  - {{model_name: stub, litellm_params: {{model: openai/stub, api_base: "{upstream}/v1", api_key: upstream}}}}
general_settings: {{master_key: "{key}"}}
litellm_settings: {{num_retries: 0, request_timeout: 60, callbacks: [], telemetry: false}}
"""
_QUIET_LITELLM = {
    "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that serves. url: of its chat route. key: what it asks for. model: what to ask it for."""

    server: Server
    base: str
    model: str
    key: str | None = None

    @property
    def url(self) -> str:
        return f"{self.base}/v1/chat/completions"


@contextmanager
def upstream(folder: Path) -> Iterator[Gateway]:
    """The stub upstream itself, to be asked without a gateway."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with Server(python("benchmarks.gateway.upstream", str(port)), f"{base}/seen", folder / "upstream.log") as server:
        yield Gateway(server, base, "stub")


@contextmanager
def bare(folder: Path, upstream_address: str) -> Iterator[Gateway]:
    """FastAPI and aiohttp, passing through."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    command = python("uvicorn", "benchmarks.gateway.bare:app", "--port", str(port), "--no-access-log")
    with Server(command, f"{base}/docs", folder / "bare.log", {"UPSTREAM": upstream_address}) as server:
        yield Gateway(server, base, "stub")


def install_litellm(cache: Path) -> Path:
    """The `litellm` command in a virtual environment of its own, installed when absent."""
    folder = cache / "litellm"
    marker = folder / f"installed-{LITELLM}"
    if not marker.exists():
        print(f"installing litellm {LITELLM} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"litellm[proxy]=={LITELLM}"], check=True)
        marker.touch()
    return folder / "bin/litellm"


@contextmanager
def litellm(folder: Path, upstream_address: str, command: Path) -> Iterator[Gateway]:
    """LiteLLM's proxy with a master key, without a database, one worker."""
    config, port = folder / "litellm.yaml", free_port()
    config.write_text(_LITELLM_CONFIG.format(upstream=upstream_address, key=MASTER_KEY), encoding="utf-8")
    base = f"http://127.0.0.1:{port}"
    arguments = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with Server(
        [str(command), *arguments], f"{base}/health/liveliness", folder / "litellm.log", _QUIET_LITELLM
    ) as server:
        yield Gateway(server, base, "stub", MASTER_KEY)


class Home:
    """A fresh LLMOPS_HOME with an app `bench` on the stub upstream: prompt, release, champion, and a key.

    environment: what else the processes find there. settings: of llmops, by name.
    """

    def __init__(
        self, folder: Path, source: str, environment: Mapping[str, str] | None = None, **settings: str
    ) -> None:
        self._folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
        own = {f"LLMOPS_{name.upper()}": value for name, value in settings.items()}
        self.environment: Mapping[str, str] = {
            **kept, "LLMOPS_HOME": str(folder / "home"), "LLMOPS_PROMPTS": str(folder / "prompts"), "BENCH_KEY": "k",
            "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", **own, **(environment or {}),
        }  # fmt: skip
        for version, text in enumerate((PROMPT, PROMPT.replace("terse", "brief")), 1):
            path = folder / "prompts" / "bench-prompt" / f"v{version}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.llmops("models", "register", "bench-model", "--source", source, *_key_of(source))
        self.llmops("prompts", "register")
        for version in (1, 2):
            release = ("--prompt", f"bench-prompt@{version}", "--model", "bench-model@1")
            self.llmops("release", "create", "bench", *release)
        self.promote(1)

    def llmops(self, *arguments: str) -> dict[str, object]:
        """What a command prints as JSON. Raises ServerFailed."""
        command = [sys.executable, "-m", "llmops.cli", *arguments, "--json"]
        done = subprocess.run(command, env=dict(self.environment), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ServerFailed(f"llmops {' '.join(arguments)}: {done.stderr[-1000:]}")
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def promote(self, version: int) -> None:
        self.llmops("promote", f"bench@{version}", "--force", "--why", "a benchmark")

    def create_key(self, *limits: str) -> str:
        return str(self.llmops("keys", "create", "--app", "bench", *limits)["key"])

    @contextmanager
    def serving(self, key: str | None, workers: int = 1, port: int | None = None) -> Iterator[Gateway]:
        port = port or free_port()
        base = f"http://127.0.0.1:{port}"
        command = python("llmops.cli", "serve", "--port", str(port), "--workers", str(workers))
        log = self._folder / "gateway.log"
        with Server(command, f"{base}/readyz", log, self.environment) as server:
            yield Gateway(server, base, "bench", key)


def _key_of(source: str) -> tuple[str, ...]:
    return ("--key-env", "BENCH_KEY") if source.startswith("openai:") else ()


@contextmanager
def ours(
    folder: Path, upstream_address: str, workers: int = 1, environment: Mapping[str, str] | None = None
) -> Iterator[Gateway]:
    """`llmops serve` with key check, rate limit, prompt and durable log. environment: as of `Home`."""
    home = Home(folder, f"openai:{upstream_address}/v1#stub", environment)
    key = home.create_key("--requests-per-minute", "100000000", "--tokens-per-minute", "100000000000")
    with home.serving(key, workers) as gateway:
        yield gateway


@contextmanager
def side_by_side(folder: Path, litellm_command: Path) -> Iterator[dict[str, Gateway]]:
    """The stub upstream and, in front of it, each gateway with one worker."""
    with ExitStack() as stack:
        stub = stack.enter_context(upstream(folder))
        yield {
            "upstream": stub,
            "bare": stack.enter_context(bare(folder, stub.base)),
            "llmops": stack.enter_context(ours(folder, stub.base)),
            "litellm": stack.enter_context(litellm(folder, stub.base, litellm_command)),
        }
