"""Runs `llmops` in this process, in a home of its own, with the fake engine."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from llmops.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def refused(self, code: int, *said: str) -> Self:
        """Checks that the command ended with this code, and said all of this to the person; returns itself."""
        assert (self.code, [text for text in said if text not in self.err]) == (code, []), self.err
        return self


Run = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in (("HOME", tmp_path / "home"), ("ENGINE", "fake")):
        monkeypatch.setenv(f"LLMOPS_{name}", str(value))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def llmops(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run
