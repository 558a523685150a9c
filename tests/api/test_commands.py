"""Each function gives what its command prints with `--json`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import llmops as api  # the fixture of its command has its name here
from llmops.errors import GateRefused
from llmops.production_log import LogRecord, ProductionLog
from llmops.settings import Settings
from tests.registered_home import prompt_text, register_tiny, write_suite

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def project(home: Path) -> Path:
    """A project folder with two prompt versions, of which the second answers nothing right, and a suite."""
    register_tiny(Settings.from_environment())
    for number, text in enumerate((prompt_text("Be terse."), prompt_text("Be kind.").replace("40", "1")), 1):
        (Path("prompts/qa") / f"v{number}.md").parent.mkdir(parents=True, exist_ok=True)
        (Path("prompts/qa") / f"v{number}.md").write_text(text)
    write_suite(Path("eval_sets"), "sums", 24)
    return home


def test_every_function_gives_what_its_command_prints(project, llmops):
    def said(*arguments: str) -> dict[str, Any]:
        value: dict[str, Any] = llmops(*arguments, "--json").json
        return value

    registered = api.register_prompts().to_dict()
    assert [prompt["new"] for prompt in registered["prompts"]] == [True, True]
    assert said("prompts", "register") == {"prompts": [{**each, "new": False} for each in registered["prompts"]]}

    done = api.evaluate("sums", prompts=["qa@1", "qa@2"], recorder="bulk", progress=False)
    reused = {**done.to_dict(), "runs": [{**run, "generated": 0, "from_cache": 24} for run in done.to_dict()["runs"]]}
    assert said("eval", "run", "sums", "--recorder", "bulk") == reused
    assert api.leaderboard("sums", progress=False).to_dict() == reused["leaderboard"]
    assert said("eval", "compare", "qa@1", "qa@2") == api.compare("qa@1", "qa@2").to_dict()

    for version in (1, 2):
        made = api.create_release("shop", prompt=f"qa@{version}", model="tiny@1", parameters={"top_p": 0.5})
        arguments = ("--prompt", f"qa@{version}", "--model", "tiny@1", "--param", "top_p=0.5")
        assert said("release", "create", "shop", *arguments) == {**made.to_dict(), "new": False}
    api.evaluate("sums", releases=["shop@1", "shop@2"], recorder="bulk", progress=False)
    gated = api.gate("shop@1", suite="sums")
    assert (said("eval", "gate", "shop@1", "--suite", "sums"), gated.passed) == (gated.to_dict(), True)

    first = api.promote("shop@1").to_dict()
    assert (first["champion"], first["previous"], first["reference"]["source"]) == ("shop@1", None, "first-window")
    assert said("promote", "shop@1") == {**first, "reference": None}
    with pytest.raises(GateRefused):
        api.promote("shop@2")
    assert api.promote("shop@2", force=True, why="to try").to_dict()["previous"] == "shop@1"
    back = api.rollback("shop").to_dict()
    assert back == {"app": "shop", "champion": "shop@1", "previous": "shop@2", "forced": False}

    sheet, command = api.fact_sheet("shop@1"), said("factsheet", "shop@1")
    assert {**command, "made_at": None} == {**sheet.to_dict(), "made_at": None}
    assert sheet.markdown().startswith("# shop@1")
    assert "shop@1" in sheet._repr_html_()
    assert {"fact": "ref", "value": "shop@1"} in sheet.to_pandas().to_dict("records")


def test_the_log_is_read_and_monitored_as_by_the_commands(project, llmops):
    log = ProductionLog(Settings.from_environment().resolved_log_url)
    asked = {"outcome": "ok", "release": "shop@1", "tokens_in": 3, "tokens_out": 4, "latency_ms": 5.0}
    log.import_records(
        [
            LogRecord(f"q{n}", AT.replace(minute=n), 200, input=f"What is {n}?", output=f"It is {n}.", **asked)
            for n in range(60)
        ]
    )
    log.close()
    for arguments, options in (
        ({"limit": 5}, ("-n", "5")),
        ({"since": AT.replace(minute=58)}, ("--since", "2026-01-31T12:58")),
    ):
        found = api.read_log("shop", **arguments)
        assert llmops("log", "tail", "--app", "shop", *options, "--json").json == found.to_dict()
    assert (len(found.to_pandas()), found.total) == (2, 2)
    split = {"since": "2026-01-31T12:30", "until": "2026-01-31T13:00"}
    watched = api.monitor("shop", **split, progress=False)
    again = llmops("monitor", "run", "--app", "shop", *(f"--{name}={time}" for name, time in split.items()), "--json")
    assert {**again.json, "run_id": None} == {**watched.to_dict(), "run_id": None, "computed": 0}
    assert {"error", "slice"} <= {*watched.to_pandas()["descriptor"], *watched.to_pandas().columns}
    assert ("no alarm" in watched._repr_html_()) is not watched.alarm
