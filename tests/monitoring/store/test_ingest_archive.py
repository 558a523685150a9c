"""Archived records that the log has no longer: described once, with their feedback, here or in another process."""

import pickle
from datetime import timedelta

import pytest
import sqlalchemy as sa

from llmops.errors import CannotRun
from llmops.production_log import Feedback, ProductionLog
from llmops.production_log.archive import Archive
from llmops.production_log.archive_layout import Partition
from llmops.settings import Settings
from monitoring.config import read_config
from monitoring.run import run_monitor
from monitoring.store.database import open_database
from monitoring.store.ingest import ingest
from monitoring.store.ingest_archive import ingest_archive
from monitoring.store.windows import WindowReader
from tests.moments import HOUR, START
from tests.monitoring.described import APP, cheap_set, record, records, rows_in


def travelling(function, items):
    """As `map`, with what another process gets of the function and the items, and sends back."""
    for item in items:
        there, given = pickle.loads(pickle.dumps((function, item)))  # noqa: S301
        yield pickle.loads(pickle.dumps(there(given)))  # noqa: S301


def archive_all(log, archive, *, delete=True):
    """Archives every record of the log, and deletes them from it."""
    for place, seen in log.hours().items():
        manifest, _ = archive.archive(log, Partition(*place), seen)
        if delete:
            archive.delete_from(log, Partition(*place), manifest)


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "archive").mkdir()
    return Archive(str(tmp_path / "archive"))


def keys_of(engine, descriptors):
    """Of every described row, which the summaries must count alike."""
    reader = WindowReader(engine, descriptors)
    keys = sorted(rows_in(reader, APP, None, None).keys)
    assert reader.whole(APP, None, None).rows == len(keys)
    return keys


def test_the_verdict_is_the_same_from_log_and_archive_and_wherever_it_is_described(
    tmp_path, few_descriptors, make_records, archive
):
    verdicts = []
    for name, given in (
        ("log", {}),
        ("archive", {"archive": archive}),
        ("elsewhere", {"archive": archive, "spread": travelling}),
    ):
        settings = Settings(home=tmp_path / name, monitor_config=few_descriptors.monitor_config)
        log = ProductionLog(settings.resolved_log_url)
        if name != "elsewhere":  # which gets what the archive has of the second
            log.append(rated := [*make_records(180), *make_records(220, first=180, refusals=0.4)])
            for number, each in enumerate(rated[::3]):
                said = {"score": number % 2, "label": "up" if number % 3 else "down"}
                log.add_feedback(Feedback(each.request_id, each.key, "k", APP, key=f"f{number}", **said))
        if name == "archive":
            archive_all(log, archive)
            assert log.count() == 0
        window = "assistant", START + 3 * HOUR, START + 6 * HOUR
        verdicts.append(run_monitor(settings, *window, **given).to_json())
        assert run_monitor(settings, *window, **given).computed == 0
        log.close()
    assert verdicts[0]["computed"] == 400
    assert verdicts[0] == verdicts[1] == verdicts[2]
    assert verdicts[0]["state"] == "alarm"
    assert {"feedback.score", "feedback.label"} <= set(verdicts[0]["slices"][0]["descriptors"])


def test_new_records_of_the_log_are_described_elsewhere_alike(few_descriptors, make_records, tmp_path):
    descriptors, made = read_config(few_descriptors).descriptors, make_records(1200)
    found = []
    for name, spread in (("here", map), ("elsewhere", travelling)):
        log = ProductionLog(f"sqlite:///{tmp_path}/{name}/log.db")
        log.append(made)
        engine = open_database(log.url)
        assert ingest(log, engine, descriptors, spread=spread) == 1200
        with engine.connect() as connection:
            query = "SELECT after_seq, through_seq, data FROM descriptor_segments ORDER BY id"
            found.append(connection.execute(sa.text(query)).all())
        engine.dispose()
        log.close()
    assert found[0] == found[1]


def test_no_record_counts_twice_and_none_is_missing(any_log, engine, archive):
    calls = []
    descriptors = cheap_set(calls=calls)

    def update():
        done = ingest(any_log, engine, descriptors)
        return done + ingest_archive(archive, engine, descriptors)

    any_log.append(records(range(200)))
    ingest(any_log, engine, descriptors)
    archive_all(any_log, archive)  # described before
    any_log.append(records(range(200, 250)))
    archive_all(any_log, archive)  # of the last hour's, and the next one's
    any_log.append(records(range(250, 300)))
    archive_all(any_log, archive, delete=False)  # still in the log
    assert update() == 100
    assert calls == [200, 50, 50]
    assert keys_of(engine, descriptors) == [record(number).key for number in range(300)]
    any_log.append(records(range(300, 310), at=START))
    archive_all(any_log, archive)  # so that the first hour's file is another one
    assert (update(), update()) == (10, 0)
    assert keys_of(engine, descriptors) == [record(number).key for number in range(310)]


def test_records_that_are_not_described_yet_and_leave_the_log_meanwhile_come_with_the_next_run(
    any_log, engine, archive
):
    any_log.append(records(range(60)))
    archive_all(any_log, archive, delete=False)
    assert ingest_archive(archive, engine, cheap_set()) == 0, "they are the log's to tell"
    archive_all(any_log, archive)
    assert ingest_archive(archive, engine, cheap_set()) == 60


def test_what_was_interrupted_is_begun_again_and_what_was_done_stays(any_log, engine, archive):
    any_log.append([record(number, at=START + number * timedelta(seconds=10)) for number in range(3000)])
    archive_all(any_log, archive)
    tasks = []

    def interrupted(function, items):
        for item in items:
            tasks.append(item)
            if len(tasks) == 3:
                raise CannotRun("the cluster is gone")
            yield function(item)

    with pytest.raises(CannotRun, match="the cluster is gone"):
        ingest_archive(archive, engine, cheap_set(), spread=interrupted)
    done = len(keys_of(engine, cheap_set()))
    assert 0 < done < 3000
    assert done == sum(file.records for task in tasks[:2] for file in task.files)
    seen = []
    assert ingest_archive(archive, engine, cheap_set(), progress=lambda *at: seen.append(at)) == 3000 - done
    assert seen[-1] == (3000 - done, 3000 - done)
    assert len(keys_of(engine, cheap_set())) == 3000


def test_other_descriptors_describe_the_archive_anew(any_log, engine, archive):
    any_log.append(records(range(50)))
    archive_all(any_log, archive)
    ingest_archive(archive, engine, cheap_set())
    changed = cheap_set(output_version="2")
    assert ingest(any_log, engine, changed) == 0
    assert ingest_archive(archive, engine, changed) == 50
    assert len(keys_of(engine, changed)) == 50


def test_without_a_manifest_all_files_of_an_hour_count_as_one(any_log, engine, archive, tmp_path):
    any_log.append(records(range(80)))
    archive_all(any_log, archive)
    any_log.append(records(range(80, 90)))
    folder = next((tmp_path / "archive").glob("app=*/date=*/hour=*"))
    older = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    archive_all(any_log, archive)
    (folder / "_manifest.json").unlink()
    for name, content in older.items():
        (folder / name).write_bytes(content)
    assert ingest_archive(archive, engine, cheap_set()) == 90
    assert ingest_archive(archive, engine, cheap_set()) == 0
    assert len(keys_of(engine, cheap_set())) == 90


def test_descriptors_that_travel_take_no_password_and_refuse_other_versions(few_descriptors):
    settings = Settings(monitor_config=few_descriptors.monitor_config, log_url="postgresql://user:hunter2@host/log")
    descriptors = read_config(settings).descriptors
    sent = pickle.dumps(descriptors)
    assert b"hunter2" not in sent
    assert pickle.loads(sent).version == descriptors.version  # noqa: S301
    assert list(pickle.loads(pickle.dumps(descriptors.only(["latency_ms"]))).descriptors) == ["latency_ms"]  # noqa: S301
    make, (source, names, _) = descriptors.__reduce__()
    with pytest.raises(CannotRun, match="other versions on a node"):
        make(source, names, "0" * 16)
    with pytest.raises(TypeError, match="of a configuration"):
        pickle.dumps(cheap_set())
