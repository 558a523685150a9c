"""`llmops engine`: whether a server can be an upstream, and what it can do."""

import asyncio
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import click
from yarl import URL

from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.progress import progress_bar

_WORKS = {"yes": "yes", "ignored": "no", "refused": "refused", "unknown": "could not tell"}
_ENFORCED = {**_WORKS, "ignored": "accepted, not enforced"}


@click.group("engine")
def command() -> None:
    """Servers as engines."""


@command.command()
@click.argument("url")
@click.option("--model", metavar="NAME", help="Model to ask for; default: the only one that the server lists.")
@click.option(
    "--key-env", "--api-key-env", "key_variable", metavar="VAR", help="Environment variable that holds the key."
)
@click.option(
    "--seconds", type=click.FloatRange(1, 86400), default=300.0,
    help="Ask nothing more after so many seconds; what is open then is `could not tell`.",
)  # fmt: skip
@click.option(
    "--concurrency", type=click.IntRange(1, 256), multiple=True, default=(1, 8, 32), metavar="N",
    help="Requests at a time (repeatable), two for each.",
)  # fmt: skip
@json_option
def check(
    url: str, model: str | None, key_variable: str | None, seconds: float, concurrency: tuple[int, ...], as_json: bool
) -> None:
    """Ask a server at URL what it can do, keyword by keyword, and how fast it is; exit 1 when it cannot be an upstream.

    It sends a few hundred short requests, and prompts that grow until one is refused. What the table says was seen in
    answers; docs/upstreams.md tells how.

    \b
    Example: llmops engine check http://127.0.0.1:8080/v1
    """
    from llmops.engine_check import check, chosen_model

    base_url = url.rstrip("/")
    if URL(base_url).path in ("", "/"):
        base_url = f"{base_url}/v1"
        say(f"{url} has no path; checking {base_url}")
    model = chosen_model(base_url, key_variable, model)
    with progress_bar() as progress:
        report = asyncio.run(
            check(
                base_url, model, key_variable=key_variable, seconds=seconds, concurrency=concurrency, progress=progress
            )
        )
    emit(as_json, report, lambda: _print(report))
    sys.exit(0 if report["ok"] else 1)


def _print(report: Mapping[str, Any]) -> None:
    titles = {
        "capabilities": (f"{report['url']}, model {report['model']}", "what", "works", _WORKS),
        "schema_keywords": ("Schema keywords", "keyword", "enforced", _ENFORCED),
    }
    for name, (title, first, second, words) in titles.items():
        rows = [(key, words[seen["verdict"]], seen["detail"]) for key, seen in report[name].items()]
        if rows:
            print_table(title, (first, second, "seen"), rows)
    if report["speed"]:
        columns = ("at a time#", "requests#", "failed#", "unfinished#", "first token s#", "tokens/s each#", "tokens/s#")
        spreads = ("first_token_s", "tokens_per_second_each")
        levels = [
            (
                *(each[name] for name in ("concurrency", "requests", "failed", "unfinished")),
                *(_spread(each[name]) for name in spreads),
                each["tokens_per_second"],
            )
            for each in report["speed"]
        ]
        print_table("Speed: median (least to most)", columns, levels)
        for error in sorted({error for each in report["speed"] for error in each["errors"]}):
            echo(f"failed under load: {error}")
    extra = {part: names for part, names in report["fields"].items() if names}
    echo("Further fields: " + ("; ".join(f"{part}: {', '.join(names)}" for part, names in extra.items()) or "none"))
    echo(f"{report['requests']} requests in {report['seconds']:.0f} s")
    if not report["ok"]:
        echo(f"cannot be an upstream: {report['reason']}")
        return
    settings = report["settings"]
    name = re.sub(r"[^a-z0-9]+", "-", report["model"].rpartition("/")[2].lower()).strip("-") or "model"
    key = f" --key-env {settings['key_variable']}" if settings["key_variable"] else ""
    echo("It can be an upstream. To use it:")
    echo(f"  llmops models register {name} --source {shlex.quote(settings['source'])}{key}")
    for variable, setting in settings["environment"].items():
        echo(f"  export {variable}={setting['value']}  # {setting['why']}")


def _spread(spread: Mapping[str, float] | None) -> str:
    return "" if spread is None else f"{spread['median']:.3g} ({spread['min']:.3g} to {spread['max']:.3g})"
