"""`llmops audit`: list and verify, with their exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.audit import AuditLog, Draft
from llmops.production_log import open_engine
from llmops.registry import Registry
from llmops.settings import Settings
from tests.command_line import Run
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


def test_list_shows_entries_of_all_or_of_one_app(audit: AuditLog, llmops: Run) -> None:
    everything, of_one = llmops("audit", "list", "--json"), llmops("audit", "list", "--app", "assistant", "--json")
    assert everything.code == of_one.code == 0
    assert everything.json["total"] == 4
    assert everything.json["entries"] == [entry.to_json() for entry in audit.entries()]
    assert [entry["seq"] for entry in of_one.json["entries"]] == [1, 4]
    table = llmops("audit", "list").out
    assert "qa: pass against no champion" in table
    assert "the log begins with champion old@3" in table
    assert "said: [/] [red]" in table


def test_an_empty_log_is_whole(home: Path, llmops: Run) -> None:
    assert llmops("audit", "list", "--json").json == {"entries": [], "total": 0}
    found = llmops("audit", "verify", "--chain-only", "--json")
    assert (found.code, found.json["whole"], found.json["head"]) == (0, True, None)


def test_verify_names_the_entry_that_was_altered(audit: AuditLog, llmops: Run) -> None:
    engine = open_engine(audit.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_update")
        connection.exec_driver_sql("UPDATE audit_log SET actor = 'nobody' WHERE seq = 2")
    engine.dispose()
    found = llmops("audit", "verify", "--json")
    assert found.code == 1
    assert found.json["broken"] == {"seq": 2, "why": "was altered: its hash is another one"}
    assert "BROKEN at entry 2: it was altered" in llmops("audit", "verify", "--chain-only").out


def test_verify_finds_with_a_head_that_entries_were_cut_off(audit: AuditLog, llmops: Run) -> None:
    head = llmops("audit", "verify", "--chain-only", "--json").json["head"]
    assert llmops("audit", "verify", "--chain-only", "--head", head).code == 0
    engine = open_engine(audit.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER audit_log_no_delete")
        connection.exec_driver_sql("DELETE FROM audit_log WHERE seq > 2")
    engine.dispose()
    assert llmops("audit", "verify", "--chain-only").code == 0
    found = llmops("audit", "verify", "--chain-only", "--head", head, "--json")
    assert (found.code, found.json["broken"]["seq"]) == (1, 3)


@pytest.mark.parametrize("head", ["", "abc", "g" * 64])
def test_a_head_that_is_no_hash_is_a_usage_error(home: Path, llmops: Run, head: str) -> None:
    found = llmops("audit", "verify", "--head", head)
    assert found.code == 2
    assert "--head" in found.err


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
