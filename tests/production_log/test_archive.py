"""Archived records equal the log's own, exactly once each, whatever happened in between."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.services.servers import CREDENTIALS, s3_server
from llmops.errors import Corrupted, StoreUnavailable, UsageError
from llmops.file_storage import normalised
from llmops.production_log import SHADOW, Feedback, ProductionLog
from llmops.production_log.archive import MANIFEST, Archive
from llmops.production_log.archive_layout import SCHEMA, Partition
from tests.core.log_records import HOUR, RECORDS, START, ids, record

END = datetime(2101, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """The endpoint of an S3 store with the bucket `archive`."""
    with s3_server(tmp_path_factory.mktemp("s3"), "archive") as url:
        yield url


@pytest.fixture
def archive(tmp_path):
    return Archive(str(tmp_path / "archive"))


@pytest.fixture(params=["folder", "s3"])
def any_archive(request, archive, tmp_path, monkeypatch):
    if request.param == "folder":
        return archive
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": request.getfixturevalue("s3")}.items():
        monkeypatch.setenv(name, value)
    return Archive(f"s3://archive/{tmp_path.name}/{request.node.name.partition('[')[0]}")


def archive_all(log, archive, **window):
    """Archives everything; returns how many hours were written."""
    hours = log.hours(**{"until": END, **window})
    return sum(archive.archive(log, Partition(*place), seen)[1] for place, seen in hours.items())


def delete_archived(log, archive, **up_to):
    stored = [(stored.partition, stored.manifest) for stored, _ in archive.verify()]
    return sum(archive.delete_from(log, *each, **up_to) for each in stored)


def problems(archive):
    return [problem for _, found in archive.verify() for problem in found]


def tree(archive):
    folder = Path(archive.url)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said(about, **fields):
    return Feedback(about.request_id, about.key, "k1", about.app, about.release, **fields)


@given(st.lists(RECORDS, max_size=6, unique_by=lambda each: each.key), st.integers(1, 3000))
@settings(max_examples=15)
def test_whatever_the_log_holds_comes_back_the_same(records, file_bytes):
    with TemporaryDirectory() as folder, closing(ProductionLog(f"sqlite:///{folder}/log.db")) as log:
        log.append(records)
        archive = Archive(f"{folder}/archive")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llmops.production_log.archive.FILE_BYTES", file_bytes)
            archive_all(log, archive)
        assert list(archive.iterate(shadow=True)) == list(log.iterate(shadow=True))
        assert delete_archived(log, archive) == len(records)
        assert log.count() == 0


def fill(log):
    """Two apps and a bare model over three hours, a shadow request, and feedback of every kind."""
    minute = timedelta(minutes=1)
    rows = [
        record(n, at=START + n * 20 * minute, release=release, user=f"user{n % 3}", input=f"é {n}", tokens_in=n)
        for n, release in enumerate(["assistant@1", "a/b =@2", None] * 3)
    ]
    shadow = record(9, at=START + minute, outcome=SHADOW, details={"shadow_of": "r0", "big": 2**70, "half": "\ud800"})
    log.append([*rows, shadow])
    log.add_feedback(said(rows[0], user="user1", score=0.5, comment="ñ", label="good"))
    log.add_feedback(said(rows[3], truth=(1.5, None, "x")))
    log.add_feedback(said(rows[0], label="better", compared_to="r3", compared_key=rows[3].key, compared_release="x@1"))
    return log


@pytest.fixture
def filled(log):
    return fill(log)


@pytest.fixture
def filled_file(sqlite_log):
    return fill(sqlite_log)


WINDOWS = (
    {},
    {"shadow": True},
    {"app": "assistant"},
    {"app": "a/b ="},
    {"app": ""},
    {"app": "nobody"},
    {"since": START + timedelta(minutes=20), "until": START + timedelta(minutes=100)},
    {"request_id": "r9"},
    {"limit": 4},
    {"limit": 4, "newest": True},
    {"limit": 1, "newest": True, "until": START + timedelta(minutes=60)},
)


def test_windows_are_read_as_from_the_log(filled_file, any_archive):
    assert archive_all(filled_file, any_archive) == 9
    for window in WINDOWS[:: 4 if any_archive.url.startswith("s3:") else 1]:
        assert any_archive.read(feedback=True, **window) == filled_file.read(feedback=True, **window), window
        assert any_archive.read(**window) == filled_file.read(**window), window
        window = {name: value for name, value in window.items() if name not in ("limit", "newest")}
        assert any_archive.count(**window) == filled_file.count(**window), window


def test_ids_are_found_by_their_beginning(filled_file, archive):
    archive_all(filled_file, archive)
    assert archive.request_ids("r", limit=3) == ["r0", "r1", "r2"]
    assert archive.request_ids("r9", limit=3) == ["r9"]
    assert archive.request_ids("R", limit=3) == []


def test_a_second_run_writes_nothing_and_a_late_one_adds_what_is_new_once(filled, archive):
    archive_all(filled, archive)
    before = tree(archive)
    assert archive_all(filled, archive) == 0
    assert tree(archive) == before
    filled.append([record(20, at=START + timedelta(minutes=5))])
    late = said(filled.read(request_id="r3")[0], user="user2", label="late")
    filled.add_feedback(late)
    assert archive_all(filled, archive) == 2
    after = tree(archive)
    changed = {path.rpartition("/")[0] for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == {Partition(int(at.timestamp() // 3600), "assistant").folder for at in (START, START + HOUR)}
    assert archive.read(feedback=True, shadow=True) == filled.read(feedback=True, shadow=True)
    assert archive.read(request_id="r3", feedback=True)[0].feedback[-1] == late
    assert problems(archive) == []


def test_what_was_archived_keeps_its_texts_when_retention_takes_the_logs(filled, archive):
    archive_all(filled, archive)
    before = archive.read(feedback=True)
    filled.delete_texts(END)
    filled.append([record(20, at=START + timedelta(minutes=5))])
    archive_all(filled, archive)
    assert [each for each in archive.read(feedback=True) if each.request_id != "r20"] == before


def test_large_partitions_have_several_files_in_order(sqlite_log, archive, monkeypatch):
    monkeypatch.setattr("llmops.production_log.archive_layout._GROUP_CHARACTERS", 2000)
    sqlite_log.append([record(n, at=START + timedelta(seconds=n % 7), key=f"{n:032}") for n in range(40)])
    monkeypatch.setattr("llmops.production_log.archive.FILE_BYTES", 1)
    archive_all(sqlite_log, archive)
    ((stored, found),) = archive.verify()
    assert (len(stored.files) > 3, found, stored.manifest.records) == (True, [], 40)
    assert archive.read() == sqlite_log.read()
    sqlite_log.append([record(40, at=START)])
    archive_all(sqlite_log, archive)
    assert archive.read() == sqlite_log.read()


def test_deleting_keeps_what_is_not_archived_or_not_described(filled, archive):
    archive_all(filled, archive)
    first, later = filled.read(request_id="r0")[0], filled.read(request_id="r3")[0]
    filled.append([record(20, at=START + timedelta(minutes=5))])
    filled.add_feedback(said(later, label="late"))
    assert delete_archived(filled, archive, described_up_to=0) == 0
    assert delete_archived(filled, archive, feedback_up_to=0) == 8
    assert sorted(ids(filled.read(shadow=True))) == ["r0", "r20", "r3"]
    assert delete_archived(filled, archive) == 1
    assert sorted(ids(filled.read())) == ["r20", "r3"]
    assert {each.record_key for each in filled.feedback_since(0)[0]} == {later.key}
    assert archive_all(filled, archive) == 2
    assert delete_archived(filled, archive) == 2
    assert (filled.count(shadow=True), filled.feedback_since(0)[0], archive.count()) == (0, [], 10)
    assert len(archive.read(request_id="r0", feedback=True)[0].feedback) == 2, first


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_nothing_is_deleted_from_the_log_by_a_damaged_file(filled_file, archive, damage):
    archive_all(filled_file, archive)
    path = next(Path(archive.url).rglob("*.parquet"))
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes()[:-9] + b"x" * 9)
    (problem,) = problems(archive)
    assert path.name in problem
    with pytest.raises((Corrupted, StoreUnavailable), match=path.name):
        delete_archived(filled_file, archive)
    assert path.parent.parent.parent.name.startswith("app=")


def test_files_in_no_manifest_go_and_those_of_a_lost_manifest_are_taken_up(sqlite_log, archive):
    sqlite_log.append([record(0), record(1, at=START + timedelta(minutes=1))])
    archive_all(sqlite_log, archive)
    before, folder = tree(archive), next(Path(archive.url).rglob(MANIFEST)).parent
    (folder / "records-000-0000.parquet").write_bytes(b"half a file")
    (folder / ".records-000-0000.parquet-1.part").write_bytes(b"half a file")
    assert len(problems(archive)) == 2
    assert ids(archive.read()) == ["r0", "r1"]
    archive_all(sqlite_log, archive)
    assert tree(archive) == before
    assert delete_archived(sqlite_log, archive) == 2
    (folder / MANIFEST).unlink()
    assert "has no manifest" in problems(archive)[0]
    sqlite_log.append([record(2, at=START + timedelta(minutes=2))])
    archive_all(sqlite_log, archive)
    assert ids(archive.read()) == ["r0", "r1", "r2"]
    assert problems(archive) == []


def test_a_manifest_that_is_none_is_said(sqlite_log, archive):
    sqlite_log.append([record(0)])
    archive_all(sqlite_log, archive)
    for text in ("{", "[]", "{}", '{"files": [], "seen": null, "format": 2}'):
        next(Path(archive.url).rglob(MANIFEST)).write_text(text)
        with pytest.raises(Corrupted, match=MANIFEST):
            archive.read()


def test_old_hours_go_whole(filled_file, archive):
    archive_all(filled_file, archive)
    cut = START + timedelta(minutes=119)
    assert archive.delete_before(cut, dry_run=True) == {"archived_hours": 3, "archived_records": 4}
    assert archive.count() == 9
    assert archive.delete_before(cut) == {"archived_hours": 3, "archived_records": 4}
    assert archive.read() == filled_file.read(since=START + HOUR)
    assert problems(archive) == []


def test_duckdb_reads_only_the_partitions_that_a_query_asks_for(filled_file, any_archive):
    archive_all(filled_file, any_archive)
    records = any_archive.dataset()  # noqa: F841 - DuckDB finds it by its name
    query = "SELECT app, hour, count(*), sum(tokens_in), count(record->>'$.input') FROM records WHERE {} GROUP BY ALL"
    hour = (START + HOUR).hour
    found = duckdb.sql(query.format(f"app = 'a/b =' AND hour = {hour} AND date = '{START:%F}'")).fetchall()
    assert found == [("a/b =", hour, 1, 4, 1)]
    assert duckdb.sql("SELECT count(*) FROM records WHERE app IS NULL").fetchall() == [(3,)]
    labels = "SELECT said.label FROM (SELECT unnest(feedback) AS said FROM records) ORDER BY ALL"
    assert duckdb.sql(labels).fetchall() == [("better",), ("good",), (None,)]
    if not any_archive.url.startswith("s3:"):
        files = duckdb.read_parquet(f"{any_archive.url}/*/*/*/*.parquet", hive_partitioning=True)
        assert files.filter(f"app = 'a/b =' AND hour = '{hour:02}'").count("*").fetchall() == [(1,)]
        for path in Path(any_archive.url).rglob("*.parquet"):
            if f"app=a%2Fb%20%3D/date={START:%F}/hour={hour:02}" not in str(path):
                path.write_bytes(b"no Parquet")
        assert duckdb.sql(query.format(f"app = 'a/b =' AND hour = {hour}")).fetchall() == found


def test_deleted_files_leave_no_version_in_a_bucket_that_keeps_them(sqlite_log, tmp_path, monkeypatch, s3):
    import boto3

    for name, value in {**CREDENTIALS, "MLFLOW_S3_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3)
    client.create_bucket(Bucket="versioned")
    client.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    archive = Archive("s3://versioned/log/")
    sqlite_log.append([record(0, user="anna"), record(1, at=START + timedelta(minutes=1))])
    archive_all(sqlite_log, archive)
    rows, opinions, partitions = archive.find({"anna"})
    found = sqlite_log.belongings(user="anna", archived=rows) | opinions
    assert archive.forget(found, partitions) == {"archived_records": 1, "archived_feedback": 0}
    assert archive.find({"anna"})[0] == []
    kept = [each["Key"] for each in client.list_object_versions(Bucket="versioned")["Versions"]]
    (listed,) = (name for stored, _ in archive.verify() for name in stored.files)
    assert {key for key in kept if key.endswith(".parquet")} == {f"log/{listed}"}
    archive.delete_before(END)
    assert "Versions" not in client.list_object_versions(Bucket="versioned")


def test_a_store_that_is_away_is_said(sqlite_log, monkeypatch, tmp_path):
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    sqlite_log.append([record(0)])
    with pytest.raises(StoreUnavailable, match="s3://nobody/log"):
        archive_all(sqlite_log, Archive("s3://nobody/log"))
    for url in ("http://x/y", "s3://", "s3://x?y"):
        with pytest.raises(UsageError, match="give a folder, or s3"):
            normalised(url)
    assert normalised("s3://x//y/") == "s3://x/y"
    (tmp_path / "archive").write_text("a file")
    with pytest.raises(StoreUnavailable, match="archive"):
        archive_all(sqlite_log, Archive(str(tmp_path / "archive")))


def test_the_columns_are_those_of_the_docs():
    page = (Path(__file__).parents[2] / "docs/log-records.md").read_text("utf-8")
    rows = [line for line in page.partition("## The archive")[2].splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in row.split("|")[1].replace("`", "").replace(" ", "").split(",")} == set(
        SCHEMA.names
    )
