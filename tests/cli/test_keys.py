"""`llmops keys`: the secret is shown once, and nowhere else."""

from __future__ import annotations

import pytest

from tests.command_line import Run


def test_create_needs_no_argument_and_gives_id_and_key(llmops: Run) -> None:
    made = llmops("keys", "create", "--json").json
    assert made["key"].startswith(f"llmops_{made['id']}_")
    assert made["apps"] is None
    assert set(made["limits"].values()) == {None}


def test_a_person_gets_the_key_alone_on_stdout(llmops: Run) -> None:
    made = llmops("keys", "create")
    assert made.out.startswith("llmops_")
    assert len(made.out.split()) == 1
    assert made.out.strip() not in made.err
    assert "not shown again" in made.err


def test_options_end_up_in_the_list(llmops: Run) -> None:
    options = ("--name", "web", "--app", "b", "--app", "a", "--admin", "--expires", "2")
    limits = ("--requests-per-minute", "5", "--tokens-per-minute", "600", "--tokens-per-day", "7000")
    made = llmops("keys", "create", *options, *limits, "--json").json
    listed = llmops("keys", "list", "--json").json["keys"]
    assert listed == [{name: value for name, value in made.items() if name != "key"}]
    assert (listed[0]["name"], listed[0]["apps"], listed[0]["admin"]) == ("web", ["a", "b"], True)
    assert listed[0]["limits"] == {"requests_per_minute": 5, "tokens_per_minute": 600, "tokens_per_day": 7000}
    assert listed[0]["expires_at"] > listed[0]["created_at"]
    assert listed[0]["revoked_at"] is None


def test_no_list_shows_a_secret_or_its_hash(llmops: Run) -> None:
    made = llmops("keys", "create", "--json").json
    secret = made["key"].rpartition(made["id"])[2]
    for shown in (llmops("keys", "list").out, llmops("keys", "list", "--json").out):
        assert made["id"] in shown
        assert secret not in shown
        assert "hash" not in shown


@pytest.mark.parametrize("given", ["id", "key", "beginning"])
def test_a_key_is_revoked_by_id_its_beginning_or_by_itself(llmops: Run, given: str) -> None:
    made = llmops("keys", "create", "--json").json
    done = llmops("keys", "revoke", {**made, "beginning": made["id"][:5]}[given], "--json")
    assert done.json["id"] == made["id"]
    assert done.json["revoked_at"] is not None
    assert "no live key is left" in done.err
    assert "revoked" in llmops("keys", "list").out
    unknown = llmops("keys", "revoke", "nothere")
    assert (unknown.code, "llmops keys list" in unknown.err) == (3, True)


def test_revoking_one_of_two_leaves_the_other_in_peace(llmops: Run) -> None:
    first, second = (llmops("keys", "create", "--json").json["id"] for _ in range(2))
    assert "no live key" not in llmops("keys", "revoke", first).err
    states = {key["id"]: key["revoked_at"] for key in llmops("keys", "list", "--json").json["keys"]}
    assert states[second] is None


@pytest.mark.parametrize("wrong", [("--requests-per-minute", "0"), ("--tokens-per-day", "x"), ("--expires", "0")])
def test_a_wrong_limit_is_a_usage_error(llmops: Run, wrong: tuple[str, str]) -> None:
    assert llmops("keys", "create", *wrong).code == 2
    assert llmops("keys", "list", "--json").json == {"keys": []}
