import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import StoreUnavailable
from llmops.keys import parse_key
from llmops.settings import Settings
from service.access import ANONYMOUS, Access, AccessCheck
from service.error_map import ApiError
from tests.at_once import wait_until
from tests.service.conftest import Sent
from tests.service.conftest import bearer as bearer_header

pytestmark = pytest.mark.anyio


class SwitchableKeys:
    """A key store that can be switched off, made to hang, or to fail as no store should. held: while it hangs."""

    def __init__(self, store):
        self._store, self.failure, self.held = store, None, False
        self.answers = threading.Event()
        self.answers.set()

    def read(self):
        self.held = not self.answers.is_set()
        self.answers.wait(10)
        self.held = False
        if self.failure is not None:
            raise self.failure
        return self._store.read()


def bearer(key):
    return [(b"authorization", f"Bearer {key}".encode())]


async def looked(key_store, tmp_path):
    """Access after one look at the store."""
    access = Access(key_store, Settings(home=tmp_path))
    await access.look()
    return access


def refused(access, headers, status=401, code="invalid_api_key", **how):
    """What is said of the refusal."""
    with pytest.raises(ApiError) as caught:
        access.check(headers, **how)
    assert (caught.value.status, caught.value.code) == (status, code)
    return caught.value.message


@pytest.fixture
def access(key_store, tmp_path):
    """Access as it is after one look, whenever it is called."""
    return lambda: asyncio.run(looked(key_store, tmp_path))


def test_where_no_key_was_ever_made_everybody_local_gets_in_and_nobody_from_beyond_loopback(access):
    assert access().check([]) is ANONYMOUS
    assert access().check(bearer("whatever")) is ANONYMOUS
    refused(access(), [], local=False)


def test_without_keys_a_web_page_whose_name_was_pointed_here_gets_nothing(access, key_store):
    own = ("127.0.0.1:8000", "[::1]:8000", "localhost", "LOCALHOST.:8000", "gateway:8000", "app.localhost", "")
    names = ("evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "[::1].evil.example", "e.e\xff")
    of_others = [(b"host", name.encode("latin-1")) for name in names]
    opened = access()
    for host in own:
        assert opened.check([(b"host", host.encode("latin-1"))]) is ANONYMOUS
    for host in of_others:
        refused(opened, [host], 403, "host_not_allowed")
    _, text = key_store.create()
    opened = access()
    for host in of_others:
        assert opened.check([host, *bearer(text)]).name == ""


def test_a_key_names_its_caller_and_its_limits(key_store, access):
    key, text = key_store.create("website", apps=["a"], admin=True)
    _, bound = key_store.create(tokens_per_minute=10)
    opened = access()
    assert opened.check(bearer(text)) == opened.check([(b"authorization", f"bEARER  {text} ".encode())]) == key
    assert opened.check(bearer(bound)).token_limits == {"minute": 10}


def test_once_a_key_exists_one_is_needed(key_store, access):
    _, text = key_store.create()
    opened = access()
    assert "API key is needed" in refused(opened, [])
    assert "API key is needed" in refused(opened, [(b"authorization", b"Basic " + text.encode())])
    assert "not valid" in refused(opened, bearer("sk-something"))


def test_a_revoked_or_expired_key_opens_nothing_not_even_for_the_anonymous(key_store, access):
    key, text = key_store.create(expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    opened = access()
    assert opened.check(bearer(text)) == key
    time.sleep(0.25)
    assert "expired" in refused(opened, bearer(text))
    key_store.revoke(key.id)
    opened = access()
    assert "revoked" in refused(opened, bearer(text))
    assert "not valid" in refused(opened, bearer(f"llmops_{key.id}_wrong"))  # only the right secret learns of it
    refused(opened, [])


def test_no_other_text_opens_the_door_or_comes_back_in_the_message(key_store, access):
    made, opened = key_store.create()[1], access()
    key_id, secret = parse_key(made)
    near = [f"llmops_{key_id}_", f"llmops__{secret}", made[:-1], f"{made}x", made.upper()]

    @given(st.sampled_from(near) | st.binary(max_size=80).map(lambda sent: sent.decode("latin-1")))
    def is_refused(text):
        assert refused(opened, [(b"authorization", b"Bearer " + text.encode("latin-1"))]) in {
            "the API key is not valid", "an API key is needed: send the header `Authorization: Bearer <key>`",
        }  # fmt: skip

    is_refused()


def test_before_the_first_look_nobody_gets_in(key_store, tmp_path):
    opened = Access(key_store, Settings(home=tmp_path))
    refused(opened, [], 503, "store_unavailable")
    assert opened.problem == "keys not read yet"


@pytest.mark.parametrize(
    ("failure", "problem"),
    [(StoreUnavailable("down"), "down"), (RuntimeError("a bug"), "RuntimeError"), (None, "no answer")],
    ids=["down", "a bug", "hangs"],
)
async def test_while_the_store_cannot_be_read_the_last_known_keys_stay_good(
    key_store, tmp_path, monkeypatch, failure, problem
):
    key, text = key_store.create()
    keys = SwitchableKeys(key_store)
    opened = await looked(keys, tmp_path)
    assert opened.problem is None
    keys.failure = failure
    if failure is None:
        monkeypatch.setattr("service.access._LOOK_SECONDS", 0.05)
        keys.answers.clear()
    await opened.look()
    assert opened.problem.startswith("keys cannot be read")
    assert problem in opened.problem
    assert opened.check(bearer(text)) == key
    keys.failure = None
    keys.answers.set()
    await opened.look()
    assert opened.problem is None


def test_creating_and_revoking_reach_a_running_gateway_within_two_seconds(key_store, serve):
    with serve(keys=key_store, keys_poll=1.0) as gateway:

        def asked(key):
            return gateway.http.get("/v1/models", headers=bearer_header(key)).status_code

        assert asked("none") == 200
        key, text = key_store.create()
        wait_until(lambda: asked("none") == 401, 2.0)
        assert asked(text) == 200
        key_store.revoke(key.id)
        wait_until(lambda: asked(text) == 401, 2.0)


def test_health_and_docs_need_no_key_and_everything_else_does(key_store, serve):
    key_store.create()
    with serve(keys=key_store) as gateway:
        for path in ("/livez", "/readyz", "/docs", "/openapi.json", "/"):
            assert gateway.http.get(path).status_code == 200, path
        for path in ("/v1/models", "/v1", "/v1/../livez/x", "//v1/models", "/V1/models", "/anything", "/livez/"):
            assert gateway.http.get(path).status_code == 401, path
        reply = gateway.chat(headers=bearer_header("sk-mine"))
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    error = {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    assert reply.json() == {"error": {"message": "the API key is not valid", **error}}


def test_metrics_need_an_admins_key_and_beyond_its_limit_a_key_is_told_when_to_come_back(key_store, serve):
    with serve(keys=key_store, keys_poll=0.02) as gateway:
        assert gateway.http.get("/metrics").status_code == 200
        _, plain = key_store.create(requests_per_minute=2)
        _, admin = key_store.create(admin=True)
        wait_until(lambda: gateway.http.get("/metrics").status_code == 401)
        wait_until(lambda: gateway.http.get("/metrics", headers=bearer_header(admin)).status_code == 200)
        reply = gateway.http.get("/metrics", headers=bearer_header(plain))
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "admin_key_needed")
        # The page's own requests do not count.
        paths = ("/status.json", "/v1/models", "/status.json", "/v1/models", "/v1/models")
        replies = [gateway.http.get(path, headers=bearer_header(plain)) for path in paths]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 200, 429]
    assert [reply.headers.get("x-ratelimit-remaining-requests") for reply in replies] == [None, "1", None, "0", "0"]
    assert 50 < int(replies[-1].headers["retry-after"]) <= 60
    assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"


async def test_limits_survive_a_look_at_the_keys(key_store, tmp_path):
    _, text = key_store.create(requests_per_minute=1)
    opened = await looked(key_store, tmp_path)
    await opened.enter(bearer(text), True, [])
    await opened.look()
    with pytest.raises(ApiError):
        await opened.enter(bearer(text), True, [])


@pytest.mark.parametrize(
    ("server", "status"),
    [
        *((server, 200) for server in (("127.0.0.1", 1), ("::1", 1), None, ("/run/gateway.sock", None))),
        (("192.0.2.1", 1), 401),
    ],
)
async def test_whether_a_caller_is_local_is_told_by_the_address_it_came_to(key_store, tmp_path, server, status):
    sent = Sent()

    async def app(scope, receive, send):
        await send({"status": 200})

    scope = {"type": "http", "path": "/v1/models", "headers": [], "server": server, "state": {"reply_headers": []}}
    await AccessCheck(app, await looked(key_store, tmp_path))(scope, None, sent)
    assert sent[0]["status"] == status


async def test_the_end_waits_for_a_look_that_is_under_way_so_that_the_source_can_be_closed(
    key_store, tmp_path, eventually
):
    keys = SwitchableKeys(key_store)
    async with Access(keys, Settings(home=tmp_path, keys_poll=0.01)).running():
        keys.answers.clear()
        await eventually(lambda: keys.held)
        asyncio.get_running_loop().call_later(0.05, keys.answers.set)
    assert not keys.held
