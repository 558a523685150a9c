"""`llmops audit` and `llmops factsheet`: what they print and write, and their exit codes."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.services.servers import free_port
from llmops.audit import AuditLog
from llmops.generation import GenerationParameters
from llmops.production_log import open_engine
from llmops.settings import Settings
from tests.monitoring.cli.test_monitor import until_answered
from tests.registered_home import release_of


@pytest.fixture
def audit(home: Path) -> AuditLog:
    """The home's audit log with four entries of two apps."""
    log = AuditLog(Settings(home=home).resolved_log_url, actor="anna")
    log.append("gate", "assistant@1", {"suite": "qa", "verdict": "pass", "against": None, "sha256": "a" * 64})
    log.append("register", "bike@1", {"sha256": "b" * 64})
    log.append("opening", "old", {"standing": {"champion": "old@3"}})
    log.append("note", "assistant", {"said": "[/] [red]"})
    return log


def execute(url: str, *statements: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_list_shows_entries_of_all_or_of_one_app(audit, llmops):
    everything, of_one = llmops("audit", "list", "--json"), llmops("audit", "list", "--app", "assistant", "--json")
    assert everything.code == of_one.code == 0
    assert everything.json["total"] == 4
    assert everything.json["entries"] == [dataclasses.asdict(entry) for entry in audit.entries()]
    assert [entry["seq"] for entry in of_one.json["entries"]] == [1, 4]
    table = llmops("audit", "list").out
    assert "qa: pass against no champion" in table
    assert "the log begins with champion old@3" in table
    assert "said: [/] [red]" in table


def test_an_empty_log_is_whole_and_a_head_is_a_hash(home, llmops):
    assert llmops("audit", "list", "--json").json == {"entries": [], "total": 0}
    found = llmops("audit", "verify", "--chain-only", "--json")
    assert (found.code, found.json["whole"], found.json["head"]) == (0, True, None)
    for head in ("", "abc", "g" * 64):
        llmops("audit", "verify", "--head", head).refused(2, "--head")


def test_verify_names_the_entry_that_was_altered_and_with_a_head_those_that_were_cut_off(audit, llmops):
    head = llmops("audit", "verify", "--chain-only", "--json").json["head"]
    assert llmops("audit", "verify", "--chain-only", "--head", head).code == 0
    execute(audit.url, "DROP TRIGGER audit_log_no_delete", "DELETE FROM audit_log WHERE seq > 2")
    assert llmops("audit", "verify", "--chain-only").code == 0
    found = llmops("audit", "verify", "--chain-only", "--head", head, "--json")
    assert (found.code, found.json["broken"]["seq"]) == (1, 3)
    execute(audit.url, "DROP TRIGGER audit_log_no_update", "UPDATE audit_log SET actor = 'nobody' WHERE seq = 2")
    found = llmops("audit", "verify", "--json")
    assert found.code == 1
    assert found.json["broken"] == {"seq": 2, "why": "was altered: its hash is another one"}
    assert "BROKEN at entry 2: it was altered" in llmops("audit", "verify", "--chain-only").out


def test_what_the_commands_move_is_on_record_and_what_mlflow_moves_is_found(home, llmops):
    registry, first = release_of(Settings(home=home))
    registry.release_versions.create(first.app, first.prompt, first.model, GenerationParameters(max_tokens=17))
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


def test_the_page_is_printed_or_written_to_files_or_is_one_object(released, llmops, tmp_path):
    result = llmops("factsheet", "assistant@1")
    assert result.code == 0
    assert result.out.startswith("# assistant@1\n")
    assert "- No gate has judged this version." in result.out
    result = llmops("factsheet", "assistant@1", "--markdown", "out/a.md", "--html", "out/a.html")
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines() == ["wrote out/a.md", "wrote out/a.html"]
    assert (tmp_path / "out/a.md").read_text().startswith("# assistant@1\n")
    assert "<h1><bdi>assistant@1</bdi></h1>" in (tmp_path / "out/a.html").read_text()
    result = llmops("factsheet", "assistant@1", "--json", "--markdown", "a.md")
    assert result.code == 0
    assert (result.json["ref"], result.json["model"]["licence"]) == ("assistant@1", "MIT")


def test_what_is_not_there_ends_with_3_and_a_wrong_name_with_2(released, llmops):
    missing = llmops("factsheet", "nobody@1", "--json")
    assert (missing.code, missing.json["error"]["type"]) == (3, "UnknownVersion")
    assert "there are: assistant" in missing.err
    assert llmops("factsheet", "a b").code == 2
    assert llmops("factsheet", "assistant").code == 3, "nothing was promoted"
    llmops("factsheet", "assistant@1", "--html", "/dev/null/a.html").refused(3, "cannot")


def test_create_needs_no_argument_and_a_person_gets_the_key_alone_on_stdout(llmops):
    made = llmops("keys", "create", "--json").json
    assert made["key"].startswith(f"llmops_{made['id']}_")
    assert made["apps"] is None
    assert set(made["limits"].values()) == {None}
    made = llmops("keys", "create")
    assert made.out.startswith("llmops_")
    assert len(made.out.split()) == 1
    assert made.out.strip() not in made.err
    assert "not shown again" in made.err


def test_options_end_up_in_the_list_which_shows_no_secret_and_no_hash(llmops):
    options = ("--name", "web", "--app", "b", "--app", "a", "--admin", "--expires", "2")
    limits = ("--requests-per-minute", "5", "--tokens-per-minute", "600", "--tokens-per-day", "7000")
    made = llmops("keys", "create", *options, *limits, "--json").json
    listed = llmops("keys", "list", "--json").json["keys"]
    assert listed == [{name: value for name, value in made.items() if name != "key"}]
    assert (listed[0]["name"], listed[0]["apps"], listed[0]["admin"]) == ("web", ["a", "b"], True)
    assert listed[0]["limits"] == {"requests_per_minute": 5, "tokens_per_minute": 600, "tokens_per_day": 7000}
    assert listed[0]["expires_at"] > listed[0]["created_at"]
    assert listed[0]["revoked_at"] is None
    made = llmops("keys", "create", "--json").json
    secret = made["key"].rpartition(made["id"])[2]
    for shown in (llmops("keys", "list").out, llmops("keys", "list", "--json").out):
        assert made["id"] in shown
        assert secret not in shown
        assert "hash" not in shown


@pytest.mark.parametrize("given", ["id", "key", "beginning"])
def test_a_key_is_revoked_by_id_its_beginning_or_by_itself(llmops, given):
    made = llmops("keys", "create", "--json").json
    done = llmops("keys", "revoke", {**made, "beginning": made["id"][:5]}[given], "--json")
    assert done.json["id"] == made["id"]
    assert done.json["revoked_at"] is not None
    assert "no live key is left" in done.err
    assert "revoked" in llmops("keys", "list").out
    llmops("keys", "revoke", "nothere").refused(3, "llmops keys list")


def test_revoking_one_of_two_leaves_the_other_in_peace(llmops):
    first, second = (llmops("keys", "create", "--json").json["id"] for _ in range(2))
    assert "no live key" not in llmops("keys", "revoke", first).err
    states = {key["id"]: key["revoked_at"] for key in llmops("keys", "list", "--json").json["keys"]}
    assert states[second] is None


@pytest.mark.parametrize("wrong", [("--requests-per-minute", "0"), ("--tokens-per-day", "x"), ("--expires", "0")])
def test_a_wrong_limit_is_a_usage_error(llmops, wrong):
    assert llmops("keys", "create", *wrong).code == 2
    assert llmops("keys", "list", "--json").json == {"keys": []}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_mlflows_server_ends_with_the_command_and_its_port_is_free_again(home, number):
    port = free_port()
    arguments = [sys.executable, "-m", "llmops.cli", "ui", "--port", str(port)]
    # The server's processes hold this pipe too: it ends when the last of them has.
    with subprocess.Popen(arguments, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        try:
            assert until_answered(process, f"http://127.0.0.1:{port}/health").status_code == 200
        finally:
            process.send_signal(number)
        process.stdout.read()
        assert process.wait() == (0 if number == signal.SIGTERM else -number)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))
