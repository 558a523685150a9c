from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from llmops.errors import StoreUnavailable, UnknownVersion, UsageError
from llmops.keys import KeyStore, parse_key, secret_hash
from llmops.production_log import ProductionLog
from llmops.production_log.database import database_url
from tests.at_once import at_once


@pytest.fixture
def store(log_url):
    opened = KeyStore(log_url)
    yield opened
    opened.close()


def test_a_key_is_id_and_secret_of_enough_chance_of_which_the_hash_alone_is_stored_and_nothing_shown(tmp_path):
    store = KeyStore(f"sqlite:///{tmp_path}/home/log.db")
    key, text = store.create("website")
    key_id, secret = parse_key(text)
    assert (text, key_id, key.hash) == (f"llmops_{key.id}_{secret}", key.id, secret_hash(secret))
    assert len(secret) * 6 >= 160  # URL-safe base 64
    assert store.create()[1] != text
    store.close()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "home").iterdir())
    assert key.id.encode() in stored
    assert secret.encode() not in stored
    for shown in (str(key.to_json()), repr(key)):
        assert key.hash not in shown
        assert secret not in shown


def test_what_is_created_can_be_read_by_another_process_beside_the_production_log(store, log_url):
    expires = datetime.now(UTC) + timedelta(days=1)
    limits = {"requests_per_minute": 5, "tokens_per_minute": 10**10, "tokens_per_day": 10**12}
    made, _ = store.create("a", apps=["b", "a", "a"], admin=True, expires_at=expires, **limits)
    plain, _ = store.create()
    odd, _ = store.create("caf\udce9" + "x" * 300, apps=["a\udce9"])  # no UTF-8
    with closing(KeyStore(log_url)) as other, closing(ProductionLog(log_url)) as log:
        assert (other.read(), log.count()) == ((made, plain, odd), 0)
    assert (made.apps, made.admin, made.limits()) == (("a", "b"), True, limits)
    assert (made.token_limits, plain.token_limits) == ({"minute": 10**10, "day": 10**12}, {})
    assert (plain.apps, plain.admin, plain.expires_at) == (None, False, None)


def test_a_revoked_key_stays_listed_and_is_revoked_once(store):
    key, _ = store.create()
    assert store.has_live_key()
    first = store.revoke(key.id)
    assert not first.live(datetime.now(UTC))
    assert store.revoke(key.id) == first
    assert store.read() == (first,)
    assert not store.has_live_key()
    with pytest.raises(UnknownVersion, match="'nothere' does not exist"):
        store.revoke("nothere")


def test_a_key_is_live_until_it_expires(store):
    key, _ = store.create(expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert key.live(key.expires_at - timedelta(seconds=1))
    assert not key.live(key.expires_at)


def test_a_wrong_key_is_refused_and_not_stored(store):
    limits = ({"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"tokens_per_day": 10**13})
    for wrong in (*limits, {"apps": []}, {"apps": [""]}, {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            store.create(**wrong)
    assert store.read() == ()


def test_a_store_that_comes_up_later_serves_later(tmp_path):
    blocker = tmp_path / "log.db"
    blocker.mkdir()
    with closing(KeyStore(f"sqlite:///{blocker}")) as store:
        with pytest.raises(StoreUnavailable, match=r"log\.db"):
            store.read()
        blocker.rmdir()
        assert store.read() == ()


@pytest.mark.parametrize(
    "bad", ["nonsense", "mysql+nodriver://u:hidden@h/d", "postgresql+psycopg://u:hidden@127.0.0.1:1/d"]
)
def test_an_unusable_store_is_said_without_its_password(bad):
    with pytest.raises(StoreUnavailable) as caught:
        KeyStore(bad).read()
    assert "hidden" not in str(caught.value)


def test_many_threads_open_and_create_at_once(log_url):
    stores = [KeyStore(log_url) for _ in range(8)]
    at_once(*(store.create for store in stores))
    assert len(stores[0].read()) == 8
    for store in stores:
        store.close()


def test_what_has_not_changed_is_the_same_object(store, log_url):
    with closing(KeyStore(log_url)) as other:
        key, _ = store.create()
        before = other.read()
        assert other.read() is before
        store.create()
        assert len(other.read()) == 2
        store.revoke(key.id)
        assert other.read()[0].revoked_at is not None
        assert other.read() is other.read()


def test_a_table_that_is_damaged_is_a_store_error(store, log_url):
    store.create()
    engine = sa.create_engine(database_url(log_url))
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE gateway_keys"))
    engine.dispose()
    with pytest.raises(StoreUnavailable, match="gateway_keys"):
        store.read()


@given(st.text())
def test_any_text_is_a_key_or_not(text):
    parsed = parse_key(text)
    assert parsed is None or text == "llmops_" + "_".join(parsed)
