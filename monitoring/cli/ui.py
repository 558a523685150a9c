"""`llmops monitor ui`."""

from __future__ import annotations

import socket

import click

from llmops.cli.output import echo, emit, json_option, say
from llmops.errors import CannotRun
from llmops.settings import Settings


@click.command()
@click.option("--port", default=8001, show_default=True)
@click.option("--no-serve", is_flag=True, help="Only update the dashboard, then exit.")
@json_option
def ui(port: int, no_serve: bool, as_json: bool) -> None:
    """Show Evidently's dashboard over time, on this machine only. Stop it with Ctrl-C.

    Descriptors of new records in the production log are computed and added first. Nothing is sent elsewhere.

    \b
    Example: llmops monitor ui --port 8001
    """
    from monitoring.show.workspace import serve_dashboard, update_from_history, workspace_folder

    settings = Settings.from_environment()
    if not no_serve:
        _check_free(port)
    added = update_from_history(settings, lambda app, points: say(f"{app}: {points} points added"))
    if not added:
        say("the production log holds no app's records yet")
    folder, url = str(workspace_folder(settings)), f"http://127.0.0.1:{port}"
    value = {"workspace": folder, "added": added, "url": None if no_serve else url}
    emit(as_json, value, lambda: echo(f"the dashboard is in {folder}" if no_serve else f"Evidently on {url}"))
    if no_serve:
        return
    serve_dashboard(settings, "127.0.0.1", port)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotRun(f"port {port} cannot be used ({error.strerror}); choose another with --port") from error
