"""Shards: exact values, complete or absent, and a clear error where one is missing or was changed."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.services.servers import CREDENTIALS, s3_server
from llmops.errors import Corrupted, UsageError
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output, RowResult, Score
from llmops.evaluation.shards import COLUMNS, Shard, ShardedResults, ShardFolder

# What readers of JSON Lines and of Parquet that guess types change.
ODD = ("007", "1.10", "nan", "2026-01-31", "half \ud800 a pair", "“só”\n", "")


def results(n: int = 3) -> list[tuple[str, RowResult]]:
    made = []
    for i in range(n):
        row = EvalRow(f"r{i}\ud83d", {"question": ODD[i % 7] or "?"}, {"answers": list(ODD), "n": 2**70, "x": 0.1 + i})
        output = Output(ODD[i % 7], tokens_out=i, latency_ms=0.1, choice_logprobs=(-0.3, -1e-9))
        made.append(
            (f"key{i}", RowResult(row, output, {"right": Score(i % 2 == 0, "Looked."), "x": Score(error="no")}))
        )
    return made


def as_text(rows: list[tuple[str, RowResult]]) -> str:
    return json.dumps([(key, row.to_json()) for key, row in rows])


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3"), "shards") as url:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield "s3://shards/deep/er"


@pytest.fixture(params=["disk", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        found: str = request.getfixturevalue("bucket")
        return found
    return str(tmp_path / "deep" / "shards")


def test_what_is_read_is_exactly_what_was_written(url, tmp_path):
    folder, made = ShardFolder(url), results(20)
    shards = [folder.write("sums/cell/a", made[:7]), folder.write("sums/cell/b", made[7:])]
    assert folder.write("sums/cell/a", made[:7]) == shards[0]  # the same content has the same name
    assert folder.paths("sums/cell") == {shard.path for shard in shards}
    assert folder.paths("sums/none") == set()
    read = ShardedResults.from_json(json.loads(json.dumps(ShardedResults(url, shards).to_json(tmp_path))), tmp_path)
    assert len(read) == 20
    assert read.all_there()
    assert as_text(list(read.with_keys())) == as_text(made)
    assert as_text(list(read.with_keys())) == as_text(made)  # once more


def test_folders_are_private_and_files_are_parquet_that_anything_reads(tmp_path):
    import pyarrow.parquet as pq

    shard = ShardFolder(str(tmp_path / "shards")).write("sums/cell/a", results())
    path = tmp_path / "shards" / shard.path
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [item.name for item in path.parent.iterdir()] == [path.name]  # nothing half written
    table = pq.read_table(path)
    assert table.column_names == list(COLUMNS)
    assert json.loads(table.column("result")[1].as_py())["output"]["text"] == "1.10"


def test_a_shard_of_a_home_is_found_when_the_home_has_moved(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shard = ShardFolder(str(old / "shards")).write("sums/cell/a", results())
    recorded = ShardedResults(str(old / "shards"), [shard]).to_json(old)
    old.rename(new)
    assert as_text(list(ShardedResults.from_json(recorded, new).with_keys())) == as_text(results())


def test_a_missing_and_a_changed_shard_are_named(tmp_path):
    folder = ShardFolder(str(tmp_path))
    shard = folder.write("sums/cell/a", results())
    path = tmp_path / shard.path
    path.write_bytes(path.read_bytes()[:-1])
    rows = ShardedResults(str(tmp_path), [shard])
    with pytest.raises(Corrupted, match=rf"{shard.path}: this shard of a run was changed .*run the suite again"):
        list(rows)
    assert folder.results(shard.path) is None
    path.unlink()
    assert not rows.all_there()
    with pytest.raises(Corrupted, match=rf"{shard.path}: this shard of a run is missing; run the suite again"):
        list(rows)
    assert folder.results(shard.path) is None


def test_credentials_in_a_url_are_refused_and_not_repeated():
    with pytest.raises(UsageError, match="must not hold credentials") as caught:
        ShardedResults("s3://key:hidden@bucket/x", [Shard("a", "b", 1)])
    assert "hidden" not in str(caught.value)


def test_a_folder_that_is_none_is_an_error():
    with pytest.raises(UsageError, match="give a folder, or s3://BUCKET/PREFIX"):
        ShardFolder("carrier-pigeon://x")
