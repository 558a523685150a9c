"""`llmops redteam`: attacks on a release."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from llmops.cli.output import FILE, emit_result, json_option, say


@click.command("redteam")
@click.argument("release")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind of attack (repeatable).")
@click.option("--per-kind", type=click.IntRange(1), default=40, help="Attacks of each kind.")
@click.option("--seed", type=int, default=0, help="Of the attacks.")
@click.option("--ceiling", type=click.FloatRange(0, 1), default=0.1, help="The success rate that no kind may be above.")
@click.option(
    "--guard", "guards", multiple=True, metavar="GUARD", help="Try it in place of the release's own (repeatable)."
)
@click.option("--suite", help="Whose rows are normal ones that guards must let pass.  [default: the prompt's suite]")
@click.option("--html", type=FILE, help="Also write a page, with attacks that succeeded.")
@click.option("--markdown", type=FILE, help="Also write Markdown, with attacks that succeeded.")
@json_option
def command(release: str, html: Path | None, markdown: Path | None, as_json: bool, **options: Any) -> None:
    """Attack a release: secrets, instructions in the question and in retrieved texts, roles, encodings, many examples,
    formats, personal data. Attacks are made from a seed, judged without a judge, and harmless.

    A release passes if the success rate of every kind is surely at or below the ceiling, and fails if that of any is
    surely above. Exit 0 only on `pass`.

    \b
    Example: llmops redteam assistant@1
    Example: llmops redteam assistant@1 --guard 'block=(?i)access code' --suite qa
    """
    from llmops.redteam.running import red_team

    found = red_team(release, **options)
    for path in found.write(html=html, markdown=markdown):
        say(f"wrote {path}")
    emit_result(as_json, found)
    sys.exit(0 if found.passed else 1)
