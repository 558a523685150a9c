"""A home with a tiny registered llama, a prompt, a suite, and rows to train on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llmops.finetuning.finetune import FineTune, run_recipe
from llmops.finetuning.lora import BaseModel
from llmops.finetuning.recipe import make_recipe
from llmops.prompt_file import parse_prompt
from llmops.registry import Registry, model_registration
from llmops.settings import Settings
from tests.engines.conftest import byte_level_llama, tiny_model_folder

__all__ = ["tiny_model_folder"]

PROMPT = parse_prompt("---\ninput_variable: question\n---\n# system\nShout.\n\n# user\n{{ question }}\n")
SUITE = """eval_sets = ["shout"]
prompt = "shout"
model = "tiny@1"
[scorers.exact_match]
[gate]
primary = "exact_match"
rule = "better"
"""


def row(name: str, question: str, answer: str | None, **more: Any) -> dict[str, Any]:
    expectations = {} if answer is None else {"answers": [answer]}
    return {"id": name, "inputs": {"question": question}, "expectations": expectations, **more}


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def words(n: int) -> list[dict[str, Any]]:
    """Rows that no suite holds, each unlike all others."""
    return [row(f"t{i}", f"{'abcdefghij'[i % 10] * 3} {i * 977:x}", f"{i}!") for i in range(n)]


def home_in(folder: Path) -> Settings:
    write_rows(folder / "eval_sets" / "shout" / "rows.jsonl", [row("s0", "is it late?", "YES"), row("s1", "hm", "HM")])
    (folder / "eval_sets" / "shout.toml").write_text(SUITE)
    settings = {"LLMOPS_HOME": str(folder / "home"), "LLMOPS_EVAL_SETS": str(folder / "eval_sets")}
    return Settings.from_environment({**settings, "LLMOPS_ENGINE_THREADS": "1"})


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    return home_in(tmp_path)


class Shop:
    """Fine-tunes in one home."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.registry = settings, Registry(settings)
        self.registry.prompts.register("shout", PROMPT)
        self.told: list[str] = []

    def register(self, name: str, path: Path) -> None:
        model_registration.register(self.settings, self.registry, name, f"file:{path}", "Apache-2.0")

    def finetune(self, show: Any = lambda *_: None, **recipe: Any) -> FineTune:
        values = {"model": "tiny@1", "suite": "shout", "batch_rows": 2, "epochs": 2, "rank": 2, **recipe}
        return run_recipe(
            self.settings, self.registry, make_recipe(values), tell=self.told.append, show=show, checkpoint_seconds=0
        )


@pytest.fixture(scope="session")
def ascii_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random llama that says nothing but whole characters."""
    return byte_level_llama(tmp_path_factory.mktemp("ascii") / "tiny.gguf", [*map(chr, range(33, 127)), "Ġ", "Ċ"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, ascii_gguf: Path) -> Shop:
    """One for the fine-tunes of a module: each but one names what it makes."""
    shop = Shop(home_in(tmp_path_factory.mktemp("shop")))
    shop.register("tiny", ascii_gguf)
    return shop


@pytest.fixture
def base(ascii_gguf: Path) -> BaseModel:
    return BaseModel(ascii_gguf)
