"""A simulated cluster of three nodes on this machine: a head, and two that describe, one of which is killed."""

from contextlib import closing

import pytest

from llmops.errors import BadFile, CannotRun
from llmops.production_log import ProductionLog
from llmops.production_log.archive import Archive
from llmops.ray_cluster import RayCluster
from llmops.settings import Settings
from monitoring.run import run_monitor
from tests.eval_runs.test_on_ray import cluster
from tests.moments import DAY, START
from tests.monitoring.store.test_ingest_archive import archive_all

__all__ = ["cluster"]  # a fixture

ROWS = 12_000  # a minute apart: eight days


def refuse(number):
    if number == 3:
        raise BadFile("monitor.toml", "must not be so", line=7)
    return number * number


@pytest.mark.slow  # the cluster takes longer to start than the local run
def test_a_run_on_a_cluster_gives_the_local_verdict_though_a_node_is_killed(cluster, tmp_path, make_records, capsys):
    homes = {name: Settings(home=tmp_path / name) for name in ("log", "archive", "local", "ray")}
    logs = {name: ProductionLog(settings.resolved_log_url) for name, settings in homes.items()}
    archive = Archive(str(tmp_path / "archive.parquet"))
    made = [*make_records(ROWS // 2), *make_records(ROWS // 2, first=ROWS // 2, refusals=0.3, release="assistant@2")]
    logs["log"].append(made)
    logs["archive"].append(made[: 3 * ROWS // 4])
    archive_all(logs["archive"], archive)
    for name in ("local", "ray"):
        logs[name].append(made[3 * ROWS // 4 :])
    window, verdicts, killed = ("assistant", START + 4 * DAY, START + 5 * DAY), {}, []

    def progress(done, total):
        if total > ROWS // 2 and done > total // 3 and not killed:
            killed.append(done)
            cluster.kill(0)

    verdicts["log"] = run_monitor(homes["log"], *window)
    verdicts["local"] = run_monitor(homes["local"], *window, archive=archive)
    with closing(RayCluster("ray")) as nodes:
        given = {"archive": archive, "spread": nodes.map}
        verdicts["ray"] = run_monitor(homes["ray"], *window, progress=progress, **given)
        again = run_monitor(homes["ray"], *window, **given)
        assert list(nodes.map(refuse, range(3))) == [0, 1, 4]
        with pytest.raises(CannotRun, match=r"monitor\.toml:7: must not be so"):
            list(nodes.map(refuse, range(9)))
    cluster.add()  # a node that comes instead serves the next test
    assert killed
    assert verdicts["ray"].to_json() == verdicts["local"].to_json()
    assert verdicts["ray"].computed == ROWS
    assert again.to_json() == {**verdicts["ray"].to_json(), "computed": 0}
    assert verdicts["log"].to_json() == verdicts["local"].to_json()
    assert verdicts["ray"].alarms
    assert capsys.readouterr().out == ""  # which is the command's own, for JSON
    for log in logs.values():
        log.close()
