"""`llmops serve`."""

from __future__ import annotations

import click

from llmops.cli.output import say


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; loopback only, for now.")
@click.option("--port", default=8000, show_default=True, help="Port to listen on.")
@click.option("--workers", default=1, show_default=True, help="Gateway processes; each loads its own engine.")
def command(host: str, port: int, workers: int) -> None:
    """Start the gateway: champions, other releases and raw model versions over an OpenAI-compatible API.

    \b
    Example: llmops serve --port 8000
    Then:    curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
               -d '{"model": "assistant", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}'
    """
    from service.server import app_from_environment, run

    say(f"gateway on http://{host}:{port} (API reference at /docs); stop it with Ctrl-C")
    run(app_from_environment, host=host, port=port, workers=workers)
