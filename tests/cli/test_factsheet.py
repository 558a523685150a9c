"""`llmops factsheet`: a page to read, files, JSON, and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.prompt_file import parse_prompt
from llmops.registry import Registry
from llmops.registry import model_registration as models
from llmops.settings import Settings
from tests.command_line import Run

PROMPT = "---\ninput_variable: question\n---\n# user\n{{ question }}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one release."""
    place = tmp_path_factory.mktemp("place")
    (place / "tiny.gguf").write_bytes(b"GGUF made up")
    settings = Settings(home=place / "home")
    registry = Registry(settings)
    model = models.register(settings, registry, "tiny", f"file:{place / 'tiny.gguf'}", "MIT")[0]
    prompt, _ = registry.prompts.register("qa", parse_prompt(PROMPT))
    registry.release_versions.create("assistant", prompt, model, prompt.template.parameters)
    return place


@pytest.fixture
def home(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LLMOPS_HOME", str(place / "home"))
    monkeypatch.chdir(tmp_path)
    return place / "home"


def test_without_options_the_page_is_printed(llmops: Run) -> None:
    result = llmops("factsheet", "assistant@1")
    assert result.code == 0
    assert result.out.startswith("# assistant@1\n")
    assert "- No gate has judged this version." in result.out


def test_files_are_written_and_told_of_and_nothing_else_is_printed(llmops: Run, tmp_path: Path) -> None:
    result = llmops("factsheet", "assistant@1", "--markdown", "out/a.md", "--html", "out/a.html")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == ["wrote out/a.md", "wrote out/a.html"]
    assert (tmp_path / "out/a.md").read_text().startswith("# assistant@1\n")
    assert "<h1><bdi>assistant@1</bdi></h1>" in (tmp_path / "out/a.html").read_text()


def test_json_is_the_whole_sheet_also_beside_files(llmops: Run) -> None:
    result = llmops("factsheet", "assistant@1", "--json", "--markdown", "a.md")
    assert result.code == 0
    assert (result.json["ref"], result.json["model"]["licence"]) == ("assistant@1", "MIT")


def test_what_is_not_there_ends_with_3_and_a_wrong_name_with_2(llmops: Run) -> None:
    missing = llmops("factsheet", "nobody@1", "--json")
    assert (missing.code, missing.json["error"]["type"]) == (3, "UnknownVersion")
    assert "there are: assistant" in missing.err
    assert llmops("factsheet", "a b").code == 2
    assert llmops("factsheet", "assistant").code == 3, "nothing was promoted"
    unwritable = llmops("factsheet", "assistant@1", "--html", "/dev/null/a.html")
    assert (unwritable.code, "cannot" in unwritable.err) == (3, True)
