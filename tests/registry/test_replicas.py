"""Two replicas on one registry, with one audit log on PostgreSQL."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploy.services.servers import PostgresServer
from llmops.audit import verify
from llmops.registry import Registry
from llmops.settings import Settings
from tests.at_once import at_once
from tests.registry.conftest import model, template

ROUNDS = 3


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def replicas(
    request: pytest.FixtureRequest, postgres: PostgresServer, registry: Registry, tmp_path: Path
) -> Iterator[tuple[Registry, Registry]]:
    """With MLflow's own store on each database in turn; who moves waits in the log's database in any case."""
    mlflow = registry.store.uri
    if request.param == "postgresql":
        mlflow = postgres.new_database("two_replicas").replace("postgresql://", "postgresql+psycopg://")
    log = postgres.new_schema()
    settings = [Settings(home=tmp_path / name, tracking_uri=mlflow, log_url=log) for name in ("a", "b")]
    opened = Registry(settings[0], actor="anna"), Registry(settings[1], actor="bo")
    yield opened
    for each in opened:
        each.store.client.database.dispose()
    registry.store.make_current()


def test_two_that_move_one_alias_at_once_take_turns_and_no_move_is_lost(replicas, name):
    first, second = replicas
    prompt, _ = first.prompts.register("qa", template())
    version, _ = first.models.register(model("tiny"))
    made = [
        first.release_versions.create(name, prompt, version, template(parameters=f"{{max_tokens: {n}}}").parameters)
        for n in (16, 17, 18)
    ]
    old, one, other = (release for release, _ in made)
    first.release_versions.promote(old, why="to begin with")
    for _ in range(ROUNDS):
        at_once(
            partial(first.release_versions.promote, one, why="anna's"),
            partial(second.release_versions.promote, other, why="bo's"),
        )
    found = verify(second.audit, second.standings)
    assert found.whole
    assert found.unfinished == ()
    entries = [entry for entry in second.audit.entries(name) if "phase" in entry.details][2:]
    intents, dones = entries[::2], entries[1::2]
    assert [done.details["of"] for done in dones] == [intent.seq for intent in intents]  # one after the other
    assert [done.actor for done in dones] == [intent.actor for intent in intents]
    standing = old.ref
    for intent in intents:
        assert intent.details["before"]["champion"] == standing
        standing = intent.details["after"]["champion"]
    assert {intent.subject for intent in intents} == {one.ref, other.ref}
    assert {intent.actor for intent in intents} == {"anna", "bo"}
    assert first.release_versions.get(f"{name}@champion").ref == standing
    assert second.release_versions.get(f"{name}@champion").ref == standing
