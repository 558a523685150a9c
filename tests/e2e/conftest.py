"""The demo, run once on the real small model and a real store, shared by all end-to-end tests.

It runs on the first rows of each eval set, the monitor asks for fewer rows than by default, and the prompt that answers
at length is cut short; everything else is as `make demo`.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmops.cli import main
from llmops.settings import Settings
from service.serve import running_gateway
from tests.command_line import Result

ROOT = Path(__file__).parent.parent.parent
ROWS = {"qa": 10, "grounded": 4, "extract": 2}


@dataclass(frozen=True)
class Workplace:
    """An LLMOPS_HOME with prompts and eval sets of its own, and a way to run `llmops` there."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LLMOPS_")}
        places = {"HOME": self.home, "PROMPTS": self.folder / "prompts", "EVAL_SETS": self.folder / "eval_sets"}
        places["MONITOR_CONFIG"] = self.folder / "fewer-rows.toml"
        # One thread: other tests run on the other cores, and decoding threads that outnumber the idle ones crawl.
        alone = {"HF_HUB_OFFLINE": "1", "LLMOPS_ENGINE_THREADS": "1"}
        return {**clean, **{f"LLMOPS_{name}": str(path) for name, path in places.items()}, **alone}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This process stands in the folder, with its environment."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("LLMOPS_")]:
                patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            yield

    def run(self, *arguments: str) -> Result:
        """`llmops` in this process, which has what a new one would take seconds to import."""
        said, told = io.StringIO(), io.StringIO()
        with self.entered(), redirect_stdout(said), redirect_stderr(told), pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return Result(int(ended.value.code or 0), said.getvalue(), told.getvalue())

    @contextmanager
    def gateway(self) -> Iterator[str]:
        """The URL of a gateway process."""
        with self.entered(), running_gateway(Settings(home=self.home)) as url:
            yield url

    def json(self, *arguments: str) -> Any:
        """Runs with `--json`, which must give exit code 0 and exactly one object."""
        done = self.run(*arguments, "--json")
        assert done.code == 0, done.err
        return done.json


@pytest.fixture(scope="session")
def make_workplace(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Workplace]:
    def make(name: str) -> Workplace:
        folder = tmp_path_factory.mktemp(name)
        for part in ("prompts", "eval_sets"):
            shutil.copytree(ROOT / part, folder / part)
        for eval_set, rows in ROWS.items():
            path = folder / "eval_sets" / eval_set / "rows.jsonl"
            path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:rows]), "utf-8")
        (folder / "fewer-rows.toml").write_text(f"[rules]\nminimum_rows = {ROWS['qa'] // 2}\n")
        at_length = folder / "prompts" / "qa" / "v1.md"
        at_length.write_text(at_length.read_text("utf-8").replace("max_tokens: 32", "max_tokens: 8"), "utf-8")
        return Workplace(folder)

    return make


@dataclass(frozen=True)
class Demo:
    """The demo's first and second run in one workplace."""

    place: Workplace
    first: dict[str, Any]
    second: dict[str, Any]


@pytest.fixture(scope="session")
def demo(make_workplace: Callable[[str], Workplace]) -> Demo:
    place = make_workplace("demo")
    return Demo(place, place.json("demo"), place.json("demo"))
