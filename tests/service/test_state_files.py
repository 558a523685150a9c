"""Files taken away, replaced or cut short while a gateway has them open: it says so at once, and lets nobody in."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from llmops.errors import StoreUnavailable
from llmops.keys import KeyStore
from llmops.production_log import ProductionLog
from tests.at_once import wait_until


def replace(log):
    log.rename(log.with_name("aside.db"))
    ProductionLog(f"sqlite:///{log}").close()


def cut(log, share):
    size = log.stat().st_size
    with log.open("r+b") as file:
        file.truncate(int(size * share))


DAMAGE = {
    "taken away": Path.unlink,
    "taken away with all beside it": lambda log: [path.unlink() for path in log.parent.glob("log.db*")],
    "replaced by an empty one": replace,
    "emptied": lambda log: cut(log, 0),
    "cut in half": lambda log: cut(log, 0.5),
    "its write-ahead log taken away": lambda log: log.with_name("log.db-wal").unlink(),
}


@pytest.fixture
def keyed(serve, tmp_path):
    """`keyed()`: a gateway with a key in its log; its chat with the key, and without."""

    @contextlib.contextmanager
    def run(**settings):
        keys = KeyStore(f"sqlite:///{tmp_path / 'log.db'}", home=tmp_path)
        _, secret = keys.create(admin=True)
        with serve(keys=keys, keys_poll=0.05, **settings) as gateway:
            with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as other:
                other.execute("PRAGMA wal_checkpoint(PASSIVE)")

            def get(path, body=None, *, key=secret):
                headers = {} if key is None else {"authorization": f"Bearer {key}"}
                return gateway.http.request("GET" if body is None else "POST", path, json=body, headers=headers)

            gateway.get = get
            yield gateway
        keys.close()

    return run


CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_log_that_is_damaged_while_it_is_open_is_told_and_every_request_refused(keyed, tmp_path, damage):
    with keyed() as gateway:
        assert gateway.get("/v1/chat/completions", CHAT).status_code == 200
        damage(tmp_path / "log.db")
        assert gateway.get("/v1/chat/completions", CHAT).status_code == 503
        for path in ("/v1/models", "/metrics", "/status.json"):
            assert gateway.get(path, key=None).status_code in (401, 503)
        assert gateway.get("/v1/chat/completions", CHAT, key=None).status_code in (401, 503)
        wait_until(lambda: gateway.http.get("/readyz").status_code == 503)
        wait_until(lambda: any(str(tmp_path) in reason for reason in gateway.get("/readyz").json()["reasons"]))


def test_a_log_that_comes_back_is_written_again(keyed, tmp_path, monkeypatch):
    monkeypatch.setattr("service.log_writer.RETRY_SECONDS", 0.02)
    with keyed() as gateway:
        log, aside = tmp_path / "log.db", tmp_path / "aside.db"
        log.rename(aside)
        assert gateway.get("/v1/chat/completions", CHAT).status_code == 503
        aside.rename(log)
        wait_until(lambda: gateway.http.get("/readyz").status_code == 200)
        assert gateway.get("/v1/chat/completions", CHAT).status_code == 200


def test_a_keys_table_that_is_dropped_lets_nobody_new_in(keyed, tmp_path):
    with keyed() as gateway:
        with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as other:
            other.execute("DROP TABLE gateway_keys")
        wait_until(lambda: gateway.http.get("/readyz").status_code == 503)
        assert gateway.get("/v1/chat/completions", CHAT, key=None).status_code == 401


@pytest.mark.parametrize("loss", ["file", "table", "rows"])
def test_a_log_that_once_held_keys_is_never_read_as_one_without(tmp_path, loss):
    url, log = f"sqlite:///{tmp_path / 'log.db'}", tmp_path / "log.db"
    first = KeyStore(url, home=tmp_path)
    first.create()
    first.close()
    if loss == "file":
        log.unlink()
    else:
        with contextlib.closing(sqlite3.connect(log)) as other:
            other.execute("DROP TABLE gateway_keys" if loss == "table" else "DELETE FROM gateway_keys")
            other.commit()
    restarted = KeyStore(url, home=tmp_path)
    with pytest.raises(StoreUnavailable, match="its keys are gone"):
        restarted.read()
    key, _ = restarted.create()
    assert restarted.read() == (key,)
    restarted.close()


def test_that_keys_exist_is_remembered_where_the_home_goes_and_of_no_other_log(tmp_path):
    home, moved = tmp_path / "home", tmp_path / "moved"
    keys = KeyStore(f"sqlite:///{home / 'log.db'}", home=home)
    keys.create()
    keys.close()
    other = KeyStore(f"sqlite:///{home / 'other.db'}", home=home)
    assert other.read() == ()
    other.close()
    shutil.move(home, moved)
    (moved / "log.db").unlink()
    lost = KeyStore(f"sqlite:///{moved / 'log.db'}", home=moved)
    with pytest.raises(StoreUnavailable, match="its keys are gone"):
        lost.has_live_key()
    lost.close()


def test_a_worker_that_starts_later_takes_no_other_file_for_the_log(tmp_path):
    url = f"sqlite:///{tmp_path / 'log.db'}"
    log = ProductionLog(url)
    begun_with = log.file
    (tmp_path / "log.db").unlink()
    with pytest.raises(StoreUnavailable, match="taken away"):
        ProductionLog(url, begun_with)
    assert not (tmp_path / "log.db").exists()
    ProductionLog(url).close()
    with pytest.raises(StoreUnavailable, match="replaced"):
        KeyStore(url, file=begun_with).read()
    log.close()


def test_a_log_made_smaller_on_purpose_is_whole(tmp_path):
    log = ProductionLog(f"sqlite:///{tmp_path / 'log.db'}")
    with contextlib.closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.execute("CREATE TABLE filler (text)")
        other.executemany("INSERT INTO filler VALUES (hex(randomblob(500)))", [()] * 500)
        other.commit()
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        log.check()
        before = (tmp_path / "log.db").stat().st_size
        other.execute("DROP TABLE filler")
        other.commit()
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert (tmp_path / "log.db").stat().st_size < before
    log.check()
    log.close()
