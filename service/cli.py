"""`llmops serve`."""

import click

from llmops.cli.output import say
from llmops.settings import Settings


@click.command()
@click.option("--host", default="127.0.0.1", help="Address to listen on; other than loopback only with keys.")
@click.option("--port", default=8000, help="Port to listen on; 0 picks a free one.")
@click.option("--workers", default=1, help="Number of gateway processes; they share one engine process.")
def command(host: str, port: int, workers: int) -> None:
    """Start the gateway: champions, other releases and bare model versions over an OpenAI-compatible API.

    \b
    Example: llmops serve --port 8000
    Then:    curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
               -d '{"model": "assistant", "messages": [{"role": "user", "content": "What is the capital of Peru?"}]}'
    """
    from service.serve import serve

    def say_serving(url: str) -> None:
        home = Settings.from_environment().home.absolute()
        say(f"gateway on {url} (API reference at /docs), home {home}; stop it with Ctrl-C")

    # Said when it answers, not before: what refuses to start has never served.
    serve(host=host, port=port, workers=workers, on_serving=say_serving)
