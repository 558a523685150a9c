"""`llmops audit` and `llmops factsheet`: what they print and write, and their exit codes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llmops.audit import AuditLog, Draft
from llmops.production_log import open_engine
from llmops.registry import Registry
from llmops.settings import Settings
from tests.command_line import Run
from tests.registered_home import release_of
from tests.registry.conftest import model, template


@pytest.fixture
def audit(home: Path) -> AuditLog:
    """The home's audit log with four entries of two apps."""
    log = AuditLog(Settings(home=home).resolved_log_url, actor="anna")
    log.append(
        Draft("gate", "assistant@1", {"suite": "qa", "verdict": "pass", "against": None, "sha256": "a" * 64}),
        Draft("register", "bike@1", {"sha256": "b" * 64}),
        Draft("opening", "old", {"standing": {"champion": "old@3"}}),
        Draft("note", "assistant", {"said": "[/] [red]"}),
    )
    return log


def execute(url: str, *statements: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_list_shows_entries_of_all_or_of_one_app(audit: AuditLog, llmops: Run) -> None:
    everything, of_one = llmops("audit", "list", "--json"), llmops("audit", "list", "--app", "assistant", "--json")
    assert everything.code == of_one.code == 0
    assert everything.json["total"] == 4
    assert everything.json["entries"] == [dataclasses.asdict(entry) for entry in audit.entries()]
    assert [entry["seq"] for entry in of_one.json["entries"]] == [1, 4]
    table = llmops("audit", "list").out
    assert "qa: pass against no champion" in table
    assert "the log begins with champion old@3" in table
    assert "said: [/] [red]" in table


def test_an_empty_log_is_whole_and_a_head_is_a_hash(home: Path, llmops: Run) -> None:
    assert llmops("audit", "list", "--json").json == {"entries": [], "total": 0}
    found = llmops("audit", "verify", "--chain-only", "--json")
    assert (found.code, found.json["whole"], found.json["head"]) == (0, True, None)
    for head in ("", "abc", "g" * 64):
        refused = llmops("audit", "verify", "--head", head)
        assert (refused.code, "--head" in refused.err) == (2, True)


def test_verify_names_the_entry_that_was_altered(audit: AuditLog, llmops: Run) -> None:
    execute(audit.url, "DROP TRIGGER audit_log_no_update", "UPDATE audit_log SET actor = 'nobody' WHERE seq = 2")
    found = llmops("audit", "verify", "--json")
    assert found.code == 1
    assert found.json["broken"] == {"seq": 2, "why": "was altered: its hash is another one"}
    assert "BROKEN at entry 2: it was altered" in llmops("audit", "verify", "--chain-only").out


def test_verify_finds_with_a_head_that_entries_were_cut_off(audit: AuditLog, llmops: Run) -> None:
    head = llmops("audit", "verify", "--chain-only", "--json").json["head"]
    assert llmops("audit", "verify", "--chain-only", "--head", head).code == 0
    execute(audit.url, "DROP TRIGGER audit_log_no_delete", "DELETE FROM audit_log WHERE seq > 2")
    assert llmops("audit", "verify", "--chain-only").code == 0
    found = llmops("audit", "verify", "--chain-only", "--head", head, "--json")
    assert (found.code, found.json["broken"]["seq"]) == (1, 3)


def test_what_the_commands_move_is_on_record_and_what_mlflow_moves_is_found(home: Path, llmops: Run) -> None:
    registry = Registry(Settings(home=home))
    prompt, _ = registry.prompts.register("qa", template())
    version, _ = registry.models.register(model("tiny", format="openai"))
    for tokens in (16, 17):
        parameters = template(parameters=f"{{max_tokens: {tokens}}}").parameters
        registry.release_versions.create("assistant", prompt, version, parameters)
    assert llmops("promote", "assistant@1", "--force", "--why", "first one").code == 0
    assert llmops("promote", "assistant@2", "--force", "--why", "better").code == 0
    assert llmops("rollback", "assistant").code == 0
    found = llmops("audit", "verify")
    assert found.code == 0
    assert "the chain is whole: 8 entries, head " in found.out
    listed = llmops("audit", "list", "--app", "assistant").out
    assert "begins: champion none → assistant@1; first one" in listed
    assert "done (began with 3)" in listed
    registry.store.client.set_registered_model_alias("assistant", "champion", "2")
    found = llmops("audit", "verify", "--json")
    assert found.code == 1
    assert found.json["moved"] == [
        {"name": "assistant", "what": "champion", "logged": ["assistant@1"], "found": "assistant@2"}
    ]
    text = llmops("audit", "verify").out
    assert "MOVED around the log: champion of assistant is assistant@2, by the log assistant@1" in text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one release."""
    place = tmp_path_factory.mktemp("place")
    release_of(Settings(home=place / "home"))
    return place


@pytest.fixture
def released(home: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_HOME", str(place / "home"))


def test_without_options_the_page_is_printed(released: None, llmops: Run) -> None:
    result = llmops("factsheet", "assistant@1")
    assert result.code == 0
    assert result.out.startswith("# assistant@1\n")
    assert "- No gate has judged this version." in result.out


def test_files_are_written_and_told_of_and_nothing_else_is_printed(released: None, llmops: Run, tmp_path: Path) -> None:
    result = llmops("factsheet", "assistant@1", "--markdown", "out/a.md", "--html", "out/a.html")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == ["wrote out/a.md", "wrote out/a.html"]
    assert (tmp_path / "out/a.md").read_text().startswith("# assistant@1\n")
    assert "<h1><bdi>assistant@1</bdi></h1>" in (tmp_path / "out/a.html").read_text()


def test_json_is_the_whole_sheet_also_beside_files(released: None, llmops: Run) -> None:
    result = llmops("factsheet", "assistant@1", "--json", "--markdown", "a.md")
    assert result.code == 0
    assert (result.json["ref"], result.json["model"]["licence"]) == ("assistant@1", "MIT")


def test_what_is_not_there_ends_with_3_and_a_wrong_name_with_2(released: None, llmops: Run) -> None:
    missing = llmops("factsheet", "nobody@1", "--json")
    assert (missing.code, missing.json["error"]["type"]) == (3, "UnknownVersion")
    assert "there are: assistant" in missing.err
    assert llmops("factsheet", "a b").code == 2
    assert llmops("factsheet", "assistant").code == 3, "nothing was promoted"
    unwritable = llmops("factsheet", "assistant@1", "--html", "/dev/null/a.html")
    assert (unwritable.code, "cannot" in unwritable.err) == (3, True)
