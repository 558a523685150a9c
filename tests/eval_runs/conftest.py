"""Suites of a test or of a module, in the workshop that its module shares."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmops.prompt_file import parse_prompt
from tests.registered_home import Workshop, prompt_text


@pytest.fixture
def add_suite(workshop: Workshop) -> Iterator[Callable[..., Path]]:
    """`Workshop.add_suite` of suites that are gone when the test ends: others look for cells in all of their prompt."""
    added: list[Path] = []

    def add(*arguments: Any, **options: Any) -> Path:
        added.append(workshop.add_suite(*arguments, **options))
        return added[-1]

    yield add
    for path in added:
        path.unlink(missing_ok=True)


def add_three_cells(workshop: Workshop, name: str, n: int, what: str, gate: str = "") -> None:
    """A prompt whose versions 1 and 3 answer every row of the suite right, and 2 none, for it may say one word only.
    name: of prompt and suite. what: stands behind the number in each question."""
    for text in (prompt_text("Be right."), prompt_text("Be short.").replace("40", "1"), prompt_text("Be right too.")):
        workshop.registry.prompts.register(name, parse_prompt(text))
    folder = workshop.folder / f"{name}-rows"
    folder.mkdir()
    given = [
        {
            "id": f"{name}-{number}",
            "inputs": {"question": f"Is {number} {what}?"},
            "expectations": {"answers": [f"{number} {what}"]},
            "tags": {"half": str(number % 2)},
        }
        for number in range(n)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    head = f'eval_sets = ["{name}-rows"]\nprompt = "{name}"\nmodel = "tiny@1"\n'
    suite = f'{head}[scorers.correct]\ntype = "contains"\n[scorers.words]\n[gate]\nprimary = "correct"\n{gate}'
    (workshop.folder / f"{name}.toml").write_text(suite)
