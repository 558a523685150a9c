"""A gateway whose log stands on a real PostgreSQL server that is lost, read-only, full or held up, and comes back.

What holds in each case: every request that was answered is in the log, and all works again without a restart.
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import httpx
import psycopg
import pytest

from llmops.keys import KeyStore
from llmops.production_log import ProductionLog, database
from tests.at_once import wait_until
from tests.service.conftest import ANSWERABLE, asking, bearer, serving

BODY = ANSWERABLE["/v1/chat/completions"]
_TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
_FULL = """CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"""


def run(server, name, *statements):
    with psycopg.connect(server.url(name), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@contextmanager
def lost(server, name):
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def read_only(server, name):
    """As after a fail-over to a standby."""
    run(server, "postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(_TERMINATE, (name,))
    yield
    run(server, "postgres", f"ALTER DATABASE {name} RESET default_transaction_read_only")


@contextmanager
def full(server, name):
    """With the SQLSTATE of a full disk, as PostgreSQL reports it."""
    tables = ("log_records", "idempotent_replies", "feedback")
    made = [f"CREATE TRIGGER full_disk BEFORE INSERT ON {t} EXECUTE FUNCTION full_disk()" for t in tables]
    run(server, name, _FULL, *made)
    yield
    run(server, name, "DROP FUNCTION full_disk() CASCADE")


@contextmanager
def locked(server, name):
    """By somebody's forgotten session."""
    with psycopg.connect(server.url(name)) as connection:
        connection.execute("LOCK TABLE log_records, idempotent_replies, feedback IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.fixture
def name(postgres, request):
    """The name of a new database."""
    made = "".join(c if c.isalnum() else "_" for c in request.node.name.lower())[-60:]
    postgres.new_database(made)
    return made


def answered(replies):
    return [reply.headers["x-request-id"] for reply in replies if reply.status_code == 200]


@pytest.mark.parametrize(
    "breaks",
    [lost, *(pytest.param(each, marks=pytest.mark.slow) for each in (read_only, full, locked))],
    ids=lambda breaks: breaks.__name__,
)
def test_nothing_acknowledged_is_lost_and_the_gateway_serves_again_by_itself(
    breaks, postgres, name, tmp_path, monkeypatch
):
    monkeypatch.setattr(database, "LOCK_SECONDS", 1)
    with serving(tmp_path, log_url=postgres.url(name)) as gateway:
        vote = {"request_id": gateway.chat().headers["x-request-id"], "score": 1}
        with asking(gateway, BODY) as replies:
            wait_until(lambda: len(answered(replies)) > 20)
            with breaks(postgres, name):
                wait_until(lambda: any(reply.status_code == 503 for reply in replies))
                refused = next(reply for reply in replies if reply.status_code == 503)
                assert refused.json()["error"]["code"] == "store_unavailable"
                assert int(refused.headers["retry-after"]) >= 1
                assert gateway.http.get("/livez").status_code == 200
                wait_until(lambda: gateway.http.get("/readyz").status_code == 503)
                assert gateway.chat(headers={"idempotency-key": "during"}).status_code == 503
                assert gateway.http.post("/v1/feedback", json=vote).status_code == 503
            wait_until(gateway.ready, 60)
            wait_until(lambda: gateway.chat(headers={"idempotency-key": "after"}).status_code == 200)
            wait_until(lambda: gateway.http.post("/v1/feedback", json=vote).status_code in (200, 201))
            before = len(answered(replies))
            wait_until(lambda: len(answered(replies)) > before + 20)
    assert {reply.status_code for reply in replies} == {200, 503}
    with closing(ProductionLog(postgres.url(name))) as log:
        logged = Counter(record.request_id for record in log.iterate())
    assert {request: logged[request] for request in answered(replies)} == dict.fromkeys(answered(replies), 1)


def test_requests_wait_for_a_slow_log_up_to_the_limit_and_the_others_are_refused_at_once(postgres, name, tmp_path):
    replies = []
    with serving(tmp_path, log_url=postgres.url(name), max_waiting=3) as gateway:

        def ask():
            replies.append(httpx.post(f"{gateway.url}/v1/chat/completions", json=BODY, timeout=60))

        with ThreadPoolExecutor(8) as pool, locked(postgres, name):
            for _ in range(8):
                pool.submit(ask)
            wait_until(lambda: len(replies) == 5)
            assert {reply.status_code for reply in replies} == {429}
            assert gateway.http.get("/livez").status_code == 200
        assert Counter(reply.status_code for reply in replies) == {429: 5, 200: 3}
        assert sorted(record.request_id for record in gateway.records()) == sorted(answered(replies))


def test_keys_read_last_stay_good_while_their_database_is_lost(postgres, name, tmp_path):
    with closing(KeyStore(postgres.url(name))) as keys:
        _, key = keys.create("website")
        with serving(tmp_path, log_url=postgres.url(name), keys=keys, log_failure="serve", keys_poll=0.05) as gateway:
            with lost(postgres, name):
                wait_until(lambda: "keys" in str(gateway.http.get("/readyz", headers=bearer(key)).json()))
                assert gateway.chat(headers=bearer(key)).status_code == 200
                assert gateway.chat(headers=bearer("llmops_x_y")).status_code == 401
            wait_until(gateway.ready, 60)
            revoked, _ = keys.create("other")
            keys.revoke(revoked.id)
