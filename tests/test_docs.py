"""The docs tell the truth: generated pages are fresh, settings are documented, links lead somewhere, commands exist."""

import functools
import re
import shlex
from pathlib import Path

import click
import pytest

from docs import generate
from llmops.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "service").glob("*.md"),
        *(ROOT / "monitoring").glob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
    ]
)


pages = functools.cache(generate.pages)


@functools.cache
def modules() -> set[str]:
    """Paths of all modules, each after a slash."""
    rooms = ("llmops", "service", "monitoring", "labs", "tests", "docs", "deploy", "benchmarks")
    return {f"/{path.relative_to(ROOT)}" for room in rooms for path in (ROOT / room).rglob("*.py")}


@pytest.mark.parametrize(
    "page", ["cli.md", "settings.md", "python.ipynb", "labs/bike.ipynb", "labs/wine.ipynb", "labs/insurance.ipynb"]
)
def test_a_generated_page_is_fresh(page):
    path = ROOT / "docs" / page
    assert path.read_text("utf-8") == pages()[path], "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_named_exists(page):
    if page.name in ("extending.md", "CHANGELOG.md") or page.parent.name == "adr":  # new ones, or those of a time
        return
    text = page.read_text("utf-8")
    known = [*modules(), *(f"/{name}" for name in re.findall(r'^```python title="(.+?)"$', text, re.MULTILINE))]
    for name in re.findall(r"(?<![\w/.:-])[\w/]+\.py\b", text):
        assert any(path.endswith(f"/{name}") for path in known), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_shown_exists_with_its_options(page):
    text = re.sub(r" \\\n +", " ", page.read_text("utf-8"))
    for line in re.findall(r"^\$ llmops (.+)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        command: click.Command = cli
        context = click.Context(cli)
        while isinstance(command, click.Group) and words:
            found = command.get_command(context, words.pop(0))
            assert found is not None, f"{page}: llmops {line}"
            command = found
        known = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{page}: llmops {line}: {word}"


def test_every_command_has_an_example_and_results_have_json():
    for command, context in generate._walk(cli, click.Context(cli, info_name="llmops")):
        if isinstance(command, click.Group):
            continue
        path = context.command_path
        assert "Example:" in (command.help or ""), path
        if path not in ("llmops serve", "llmops ui"):  # these run until they are stopped
            assert any("--json" in parameter.opts for parameter in command.params), path
