"""`python -m llmops.engine_host --socket PATH`: the engine process, as `supervisor.EngineProcess` starts it.

It ends on SIGTERM, and when its standard input ends: that is a pipe from its parent, which closes however the parent
dies. Either way requests under way may finish within the setting `drain_seconds`.
"""

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from llmops.engine_host.host import EngineHost
from llmops.engines.embedding import Embedder
from llmops.json_logs import configure_logging
from llmops.processes import when_parent_ends
from llmops.settings import Settings


def main() -> None:
    """Serves until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m llmops.engine_host", description="local engines, for a gateway")
    parser.add_argument("--socket", type=Path, required=True, help="Unix domain socket to listen on")
    parser.add_argument("--restarts", type=int, default=0, help="lives this process had before")
    chosen = parser.parse_args()
    settings = Settings.from_environment()
    configure_logging(settings.server_log)
    host = EngineHost(settings, embed=Embedder(settings).with_tokens, restarts=chosen.restarts)
    run(host, chosen.socket)


def run(host: EngineHost, socket_path: Path) -> None:
    """Runs the host in this process until SIGTERM or the end of standard input."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(host, socket_path))


async def _serve(host: EngineHost, socket_path: Path) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    # Ctrl-C reaches every process of the terminal; the parent decides when this one stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    when_parent_ends(lambda: loop.call_soon_threadsafe(stop.set))
    async with host.listening(socket_path):
        await stop.wait()


if __name__ == "__main__":
    main()
