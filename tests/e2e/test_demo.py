"""The main job, end to end: real model, real MLflow store, real gateway."""

import itertools
from collections import Counter

import httpx
import pytest

from tests.at_once import wait_until
from tests.e2e.conftest import ROWS, Workplace

CELLS = {"qa": 3, "extract": 2}


def test_every_cell_scores_every_row_with_every_scorer(demo):
    for suite, runs in demo.first["runs"].items():
        assert len(runs) == CELLS[suite]
        for run in runs:
            assert run["rows"] == ROWS[suite]
            for metric in run["metrics"].values():
                assert metric["n_scored"] + metric["n_failed"] == ROWS[suite]
                assert metric["n_failed"] == 0


def test_the_second_demo_generates_nothing_and_reuses_the_same_runs(demo):
    first, second = (list(itertools.chain(*result["runs"].values())) for result in (demo.first, demo.second))
    assert sum(run["generated"] for run in first) == sum(run["rows"] for run in first)
    assert [run["generated"] for run in second] == [0] * len(second)
    assert [run["from_cache"] for run in second] == [run["rows"] for run in second]
    assert [run["run_id"] for run in second] == [run["run_id"] for run in first]
    assert [run["metrics"] for run in second] == [run["metrics"] for run in first]


def test_the_store_holds_rows_times_scorers_assessments(demo):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{demo.place.home / 'mlflow.db'}")
    for suite, runs in demo.first["runs"].items():
        experiment = client.get_experiment_by_name(suite).experiment_id
        for run in runs:
            found = client.search_traces(
                locations=[experiment],
                filter_string=f"metadata.`mlflow.sourceRun` = '{run['run_id']}'",
                max_results=500,
                include_spans=False,
            )
            counted = Counter(a.name for trace in found for a in trace.info.assessments if a.feedback is not None)
            assert counted == dict.fromkeys(run["metrics"], run["rows"])


def test_a_gated_champion_serves_and_the_second_demo_gates_the_other_release_against_it(demo):
    releases = demo.place.json("release", "list", "assistant")["releases"]
    assert [release["prompt"] for release in releases] == ["qa@1", "qa@2"]
    assert demo.first["gate"]["against"] is None
    assert demo.first["gate"]["verdict"] == "pass"
    assert demo.first["champion"] == demo.first["gate"]["challenger"]
    shown = demo.place.json("release", "show", demo.first["champion"])
    assert "champion" in shown["aliases"]
    assert shown["gates"]["qa"]["verdict"] == "pass"
    gate = demo.second["gate"]
    assert gate["against"] == demo.first["champion"]
    assert gate["challenger"] != demo.first["champion"]
    assert gate["verdict"] in ("pass", "fail", "inconclusive")


def test_every_request_is_in_the_log_and_names_what_served_it(demo):
    tail = demo.place.json("log", "tail", "--app", "assistant", "-n", "200")
    assert tail["total"] == demo.first["requests"]["sent"] + demo.second["requests"]["sent"]
    for record in tail["records"]:
        assert (record["status"], record["outcome"]) == (200, "ok")
        assert record["release"].startswith("assistant@")
        assert record["prompt"].startswith("qa@")
        assert record["model"] == "smollm2-135m-instruct@1"
        assert record["tokens_out"] > 0
    half = demo.first["requests"]["sent"] // 2
    assert demo.first["requests"]["streamed"] == 2 * (half // 2)  # every second one of each half


def test_the_monitor_tests_the_second_half_against_the_first(demo):
    monitored = demo.first["monitor"]
    half = demo.first["requests"]["sent"] // 2
    assert monitored["window"]["rows"] == monitored["reference"]["rows"] == half
    descriptors = monitored["slices"][0]["descriptors"]
    assert {"input.length", "output.sentiment", "output.language", "output.pii_email", "latency_ms"} <= set(descriptors)
    assert (demo.place.home / "reports" / "monitor-assistant.html").stat().st_size > 100_000


def test_the_weights_are_stored_once(demo):
    models = demo.place.json("models", "list")["models"]
    assert [model["version"] for model in models] == [1, 2]
    assert models[1]["provenance"]["parent_sha256"] == models[0]["sha256"]
    stored = [path for path in (demo.place.home / "models").rglob("*") if path.suffix in (".gguf", ".whl")]
    assert len(stored) == 2


def test_a_run_compared_with_itself_shows_no_difference(demo):
    run_id = demo.first["runs"]["qa"][0]["run_id"]
    for metric in demo.place.json("eval", "compare", run_id, run_id)["metrics"].values():
        assert metric["difference"] == 0
        assert metric["p_value"] == 1
        assert metric["wins"] == metric["losses"] == 0


@pytest.mark.slow
def test_two_seeds_of_a_cell_show_no_significant_difference(demo):
    runs = [
        demo.place.json("eval", "run", "qa", "--prompt", "qa@1", "--limit", "10", "--seed", str(seed))["runs"][0]
        for seed in (1, 2)
    ]
    assert runs[0]["run_id"] != runs[1]["run_id"]
    assert runs[1]["generated"] == 10
    compared = demo.place.json("eval", "compare", runs[0]["run_id"], runs[1]["run_id"])["metrics"]
    quality = ("correct", "exact_match", "rouge_l", "bleu", "chrf", "similarity")
    assert all(compared[name]["p_adjusted"] > 0.05 for name in quality)


@pytest.mark.slow
def test_a_corrupted_model_file_is_named_with_its_cure(demo, make_workplace):
    place: Workplace = make_workplace("corrupted")
    source = next((demo.place.home / "models").rglob("*.Q4_1.gguf"))
    assert place.run("models", "register", "broken", "--source", f"file:{source}").code == 0
    stored = next((place.home / "models").rglob("*.gguf"))
    with stored.open("r+b") as file:
        file.seek(1000)
        file.write(b"\0" * 16)
    assert place.run("prompts", "register").code == 0
    done = place.run("eval", "run", "qa", "--model", "broken@1", "--limit", "1")
    assert done.code == 3
    assert "corrupted" in done.err
    assert "llmops models pull broken@1" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_promotion_reaches_a_running_gateway_without_a_restart(demo):
    champion = demo.second["champion"]
    other = next(f"assistant@{n}" for n in (1, 2) if f"assistant@{n}" != champion)
    with demo.place.gateway() as url, httpx.Client(timeout=60) as client:

        def served() -> str:
            body = {"model": "assistant", "max_tokens": 1, "messages": [{"role": "user", "content": "Hello?"}]}
            reply = client.post(f"{url}/v1/chat/completions", json=body)
            assert reply.status_code == 200
            return reply.headers["x-llmops-release"]

        assert served() == champion
        refused = demo.place.run("promote", other)
        assert refused.code == (0 if demo.second["gate"]["verdict"] == "pass" else 1)
        demo.place.json("promote", other, "--force", "--why", "to see it served")
        wait_until(lambda: served() == other, 10)
        demo.place.json("rollback", "assistant")
        wait_until(lambda: served() == champion, 10)
