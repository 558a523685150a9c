"""`llmops migrate` on a real PostgreSQL server: what is copied, what is refused, and databases of version 0.1.0."""

import json
import math
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmops import keys
from llmops.audit import AuditLog
from llmops.errors import CannotRun
from llmops.keys import KeyStore
from llmops.migration import content, opened_alone, refuse_others
from llmops.pipelines import Pipeline, Pipelines
from llmops.production_log import LogRecord, ProductionLog, make_tables, open_engine
from llmops.production_log import tables as log_tables
from llmops.settings import Settings
from monitoring.act import action_tables
from monitoring.decide import references, watch
from monitoring.store import database as store
from tests.conftest import log_url

__all__ = ["log_url"]  # that of every room: a database without tables

DECLARED = (
    log_tables.metadata, keys.metadata, store.metadata, references.metadata, watch.metadata, action_tables.metadata
)  # fmt: skip
JSON = [{"text": "é \u0000 😀", "large": 2**70, "real": 1e300, "none": None}, [], "not an object"]


def value(column, row):
    """What SQLite holds in a column of a row: as far from usual as its type allows."""
    kind = column.type.impl_instance if isinstance(column.type, sa.TypeDecorator) else column.type
    if column.nullable and row == 2:
        return None
    if column is column.table.autoincrement_column:
        return row + 1
    if isinstance(kind, sa.JSON):
        return json.dumps(JSON[row % len(JSON)])
    if isinstance(kind, sa.LargeBinary):
        return bytes(range(256)) * (row + 1)
    if isinstance(kind, sa.Boolean):
        return row % 2
    if isinstance(kind, sa.Float):
        return (math.inf, 0.1 + 0.2, -5e-324)[row]
    if isinstance(kind, sa.BigInteger):
        return 2**63 - 1 - row
    if isinstance(kind, sa.Integer):
        return row - 2**31
    return f"{row}\n😀é'\"\\\t"[: getattr(kind, "length", None)]


@contextmanager
def connected(url):
    """A connection that writes, past whatever is declared of the tables."""
    engine = open_engine(url)
    with engine.execution_options(writes=True).begin() as connection:
        yield connection
    engine.dispose()


def light(table):
    """The table without its types, which check and convert what is written."""
    return sa.table(table.name, *(sa.column(column.name) for column in table.columns))


@pytest.fixture
def filled(home):
    """A home whose tables all hold rows, and whose pipelines have run. Gives the URL of its log."""
    url = Settings(home=home).resolved_log_url
    ProductionLog(url).close()
    with connected(url) as connection:
        for metadata in DECLARED:
            make_tables(connection, metadata)
            for table in metadata.sorted_tables:
                if table is not keys.metadata.tables["gateway_keys"]:
                    rows = [{column.name: value(column, row) for column in table.columns} for row in range(3)]
                    connection.execute(sa.insert(light(table)), rows)
    with closing(KeyStore(url)) as store_of_keys:
        store_of_keys.create("website", apps=["assistant"])
    AuditLog(url).append("gate", "assistant@1", {"why": "\u0000"})
    AuditLog(url).append("gate", "assistant@2")
    pipeline = Pipeline("sums", lambda steps, inputs: {"sum": steps.do("add", sum, [inputs["number"], 1])}, "adds up")
    with Pipelines(Settings(home=home)) as pipelines:
        pipelines.run(pipeline, {"number": 2}, cycle="1")
    return url


@pytest.fixture
def target(postgres, request):
    """The URL of a new PostgreSQL database."""
    return postgres.new_database(request.node.name[:63])


def contents(url):
    with opened_alone(url) as connection:
        found = sa.MetaData()
        found.reflect(connection)
        declared = {name: table for part in DECLARED for name, table in part.tables.items()}
        tables = {name: declared.get(name, table) for name, table in found.tables.items()}
        return {name: content(connection, table) for name, table in tables.items() if not name.startswith("dbos_")}


def test_everything_goes_to_postgresql_and_back(llmops, home, filled, target):
    before = contents(filled), contents(f"sqlite:///{home}/pipelines.db")
    there = llmops("migrate", "--to", target, "--json").json
    sources = ("--from", target, "--pipelines-from", target)
    back = llmops("migrate", *sources, "--to", f"sqlite:///{home}/back/log.db", "--json").json
    assert (contents(f"sqlite:///{home}/back/log.db"), contents(f"sqlite:///{home}/back/pipelines.db")) == before
    assert (contents(filled), contents(f"sqlite:///{home}/pipelines.db")) == before
    for copied in (there, back):
        assert copied["equal"]
        assert copied["audit"]["whole"]
        assert copied["audit"]["entries"] == 2
        rows = {table["name"]: table["target"]["rows"] for table in copied["tables"]}
        of_log = {name: rows[name] for part in DECLARED for name in part.tables}
        assert of_log == dict.fromkeys(of_log, 3) | {"gateway_keys": 1}
        assert rows["workflow_status"] == 1
        assert rows["operation_outputs"] >= 1


def test_the_copy_goes_on_where_the_source_stopped(llmops, home, filled, target, monkeypatch):
    with connected(filled) as connection:  # no number comes again, not even that of a row which is gone
        connection.execute(sa.delete(log_tables.log_records).where(log_tables.log_records.c.seq == 3))
    assert llmops("migrate", "--to", target).code == 0
    assert (home / "databases-with-keys").read_text().splitlines()[-1].startswith("postgresql")
    given = {}
    with connected(target) as connection:
        for table in [t for part in DECLARED for t in part.sorted_tables]:
            if table.autoincrement_column is not None:
                columns = [c for c in table.columns if c is not table.autoincrement_column]
                values = {c.name: f"x{value(c, 1)}" if c.unique else value(c, 1) for c in columns}
                values |= {c.name: bool(values[c.name]) for c in columns if isinstance(c.type, sa.Boolean)}
                values |= {"alert_id": "new"} if table.name == "alert_outbox" else {}
                number, insert = sa.column(table.autoincrement_column.name), sa.insert(light(table)).values(values)
                given[table.name] = connection.execute(insert.returning(number)).scalar_one()
    assert given == dict.fromkeys(given, 4)
    AuditLog(target).append("gate", "assistant@3")
    monkeypatch.setenv("LLMOPS_LOG_URL", target)
    monkeypatch.setenv("LLMOPS_PIPELINES_URL", target)
    assert llmops("audit", "verify", "--chain-only", "--json").json["entries"] == 3
    assert llmops("pipeline", "show", "sums@1", "--json").json["status"] == "finished"


def small(url, **fields):
    """A log with one record, whose columns are changed in the database."""
    with closing(ProductionLog(url)) as log:
        log.append([LogRecord("r1", datetime.now(UTC), 200, "ok", input="hello")])
    if fields:
        with connected(url) as connection:
            connection.execute(sa.update(light(log_tables.log_records)).values(fields))


def count(url):
    with closing(ProductionLog(url)) as log:
        return log.count()


def test_what_a_database_cannot_hold_is_replaced_and_counted(llmops, home, target):
    small(f"sqlite:///{home}/log.db", input="a\x00b", details='{"score": NaN}', app='"')
    copied = llmops("migrate", "--to", target, "--json").json
    assert {table["name"]: table["replaced"] for table in copied["tables"] if table["replaced"]} == {"log_records": 2}
    with closing(ProductionLog(target)) as log:
        (record,) = log.read()
    assert (record.input, record.details) == ("a\ufffdb", {"score": None})
    with connected(target) as connection:
        connection.execute(sa.update(log_tables.log_records).values(latency_ms=math.nan))
    copied = llmops("migrate", "--from", target, "--to", f"sqlite:///{home}/back.db", "--json").json
    assert copied["equal"]
    assert sum(table["replaced"] for table in copied["tables"]) == 1


def test_a_row_that_the_target_refuses_is_named_and_nothing_is_kept(llmops, home, target):
    small(f"sqlite:///{home}/log.db", status=2**40)
    llmops("migrate", "--to", target).refused(3, "log_records: the row with seq=1", "out of range")
    assert count(target) == 0


def test_a_difference_is_shown_and_nothing_is_kept(llmops, home, target):
    small(f"sqlite:///{home}/log.db")
    ProductionLog(target).close()
    with connected(target) as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN NEW.input := upper(NEW.input); RETURN NEW; END $$"
        )
        connection.exec_driver_sql(
            "CREATE TRIGGER spoils BEFORE INSERT ON log_records FOR EACH ROW EXECUTE FUNCTION spoil()"
        )
    said = llmops("migrate", "--to", target).refused(1, "nothing was kept")
    assert "DIFFERS" in said.out
    assert count(target) == 0


def test_a_target_with_data_and_databases_in_use_are_refused(llmops, home, target):
    source = f"sqlite:///{home}/log.db"
    small(source)
    with closing(ProductionLog(source)) as log:  # as a gateway has it
        log.count()
        llmops("migrate", "--to", target).refused(3, "log.db is in use: stop the gateway")
    with closing(ProductionLog(target)) as log:
        log.count()
        llmops("migrate", "--to", target).refused(3, "is in use, by 1 sessions")
    with opened_alone(target) as connection, closing(ProductionLog(target)) as log:  # one that comes later
        log.count()
        with pytest.raises(CannotRun, match="in use, by 1 sessions"):
            refuse_others(connection)
    assert llmops("migrate", "--to", target).code == 0
    assert llmops("migrate", "--to", target, "--json").json["equal"]  # nothing is left to do
    with closing(ProductionLog(source)) as log:
        log.append([LogRecord("r2", datetime.now(UTC), 200, "ok")])
    llmops("migrate", "--to", target).refused(3, "holds other data already, in log_records")
    llmops("migrate", "--from", target, "--to", source).refused(3, "holds other data already, in log_records")
    llmops("migrate", "--from", f"sqlite:///{home}/none.db", "--to", target).refused(3, "none.db does not exist")
    llmops("migrate", "--to", source).refused(2, "same database")


def test_a_database_of_version_0_1_0_is_brought_up_to_date(log_url, tmp_path):
    kind = "sqlite" if log_url.startswith("sqlite") else "postgresql"
    (tmp_path / "deep").mkdir()
    with connected(log_url) as connection:
        script = (Path(__file__).parent / f"schema_0_1_0/{kind}.sql").read_text(encoding="utf-8")
        for statement in script.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
        for table, nullable in (("alert_outbox", "last_error"), ("gateway_keys", "tokens_per_day")):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {nullable}")  # as if added since
    with closing(ProductionLog(log_url)) as log, closing(KeyStore(log_url)) as store_of_keys:
        log.append([LogRecord("r1", datetime.now(UTC), 200, "ok")])
        store_of_keys.create("website", tokens_per_day=5)
        assert [key.tokens_per_day for key in store_of_keys.read()] == [5]
    with connected(log_url) as connection:
        for metadata in DECLARED:
            make_tables(connection, metadata)
            assert log_tables.is_complete(connection, metadata)
            for table in metadata.sorted_tables:
                there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
                assert there == set(table.columns.keys())
