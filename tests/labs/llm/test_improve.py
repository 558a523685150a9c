"""The closed loop: alarms, review, training, release; on a real registry, log and tiny model."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from labs.llm.improve import ImproveSteps, pipeline
from llmops.errors import BadFile, CannotRun
from llmops.pipelines import Pipelines
from llmops.production_log import LogRecord, ProductionLog
from llmops.settings import Settings
from monitoring.act.alarm_book import AlarmBook, Sighting
from monitoring.act.alerts import AlertSettings
from monitoring.act.outbox import Outbox
from monitoring.store.database import open_database
from tests.finetuning.conftest import PROMPT, SUITE, Shop, ascii_gguf, row, tiny_model_folder, write_rows
from tests.labs.llm.canary import canary_traffic
from tests.labs.llm.direct import Direct

__all__ = ["ascii_gguf", "tiny_model_folder"]

NOT_WORSE = SUITE.replace('"better"', '"not-worse"\nmargin = 0.3')
RECIPE = 'model = "tiny@1"\nsuite = "shout"\nbatch_rows = 2\nepochs = 1\nrank = 2\n'


@dataclass
class App:
    """The app `shop`: its champion, its log, the alarms about it, and the clock that a canary waits by."""

    shop: Shop
    folder: Path
    at: datetime = datetime(2026, 5, 1, 12, tzinfo=UTC)
    naps: list[float] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.shop.settings

    def import_records(self, records: list[LogRecord]) -> None:
        log = ProductionLog(self.settings.resolved_log_url)
        log.import_records(records)
        log.close()

    def alarm(self, *rows: str, release: str | None = "shop@1") -> None:
        engine = open_database(self.settings.resolved_log_url)
        book = AlarmBook(engine, AlertSettings(), Outbox(engine, ()))
        self.at += timedelta(hours=1)
        found = Sighting("shop", "output.length", "drift", "shorter", "output", release, rows=rows)
        book.record("shop", f"window until {self.at}", [found], self.at)
        engine.dispose()

    def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.import_records(canary_traffic("shop", self.at, 60))
        self.at += timedelta(seconds=seconds)

    def run(self, cycle: str, *, durable: bool = False, times: int = 1, **inputs: Any) -> dict[str, Any]:
        given = {"app": "shop", "suite": "shout", "recipe": str(self.folder / "recipe.toml"), "dry_run": False}
        given |= {"minimum_rows": 60, "deadline_seconds": 25, **inputs}
        work = pipeline(self.settings, work=ImproveSteps(self.settings, lambda: self.at, self.nap))
        if not durable:
            return dict(work.function(Direct(cycle, times), work.complete(given)))
        with Pipelines(self.settings) as pipelines:
            return dict(pipelines.run(work, given, cycle=cycle).result)

    def review(self, file: str, *decisions: bool | None) -> None:
        """As a person does: what is accepted gets the right answer."""
        lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
        for line, accept in zip(lines, decisions, strict=True):
            line["review"]["accept"] = accept
            line["expectations"] = {"expected_response": line["inputs"]["question"].upper()} if accept else {}
        write_rows(Path(file), lines)

    @property
    def champion(self) -> Any:
        return self.shop.registry.release_versions.champion("shop")


@pytest.fixture
def app(tmp_path: Path, ascii_gguf: Path) -> App:
    """With champion 1, three answers in the log, and an alarm that names two of them."""
    questions = [row(f"s{i}", f"is {'abcdefgh'[i % 8] * 4} {i * 919:x} late?", "YES") for i in range(48)]
    write_rows(tmp_path / "eval_sets" / "shout" / "rows.jsonl", questions)
    (tmp_path / "eval_sets" / "shout.toml").write_text(NOT_WORSE)
    write_rows(tmp_path / "plain.jsonl", [row("t1", "red door", "RED DOOR"), row("t2", "blue sky", "BLUE SKY")])
    (tmp_path / "recipe.toml").write_text(f"{RECIPE}train = [{json.dumps(str(tmp_path / 'plain.jsonl'))}]\n")
    places = {"LLMOPS_HOME": "home", "LLMOPS_EVAL_SETS": "eval_sets", "LLMOPS_PROMPTS": "prompts"}
    environment = {name: str(tmp_path / place) for name, place in places.items()}
    (tmp_path / "prompts").mkdir()
    shop = Shop(Settings.from_environment({**environment, "LLMOPS_ENGINE": "fake", "LLMOPS_ENGINE_THREADS": "1"}))
    shop.register("tiny", ascii_gguf)
    registry = shop.registry
    prompt, model = registry.prompts.get("shout@1"), registry.models.get("tiny@1")
    release, _ = registry.release_versions.create("shop", prompt, model, PROMPT.parameters)
    registry.release_versions.promote(release, why="the first one")
    made = App(shop, tmp_path)
    asked = ["cold tea please", "where is my order", "stop that now"]
    made.import_records([
        LogRecord.from_json({
            "request_id": f"r{i}", "at": made.at.isoformat(), "status": 200, "input": text, "output": "hm",
            "release": "shop@1", "app": "shop", "latency_ms": 5.0,
        })
        for i, text in enumerate(asked)
    ])  # fmt: skip
    made.alarm("r0", "r1")
    return made


def test_alarms_lead_to_reviewed_rows_a_fine_tune_and_a_promotion_or_to_nothing(app):
    dry = app.run("dry", dry_run=True)
    assert (dry["verdict"], dry["outcome"]) == ("pass", "dry run")
    assert dry["told"].startswith(
        "would have 2 rows of 1 alarm reviewed, and learn nothing yet: no reviewed row is new"
    )
    assert not app.settings.improve_dir.exists()

    waits = app.run("one")
    assert (waits["verdict"], waits["outcome"]) == ("inconclusive", "waits for review")
    assert app.run("two")["review"]["rows"] == 0, "each row is put into one review file"
    app.review(waits["review"]["file"], True, False)
    assert "and fine-tune with 1 reviewed row more" in app.run("dry2", dry_run=True)["told"]
    done = app.run("three", durable=True)
    assert (done["verdict"], done["outcome"], done["gate"]["verdict"]) == ("pass", "promoted", "pass")
    assert (app.champion.ref, app.champion.model.ref, app.champion.prompt.ref) == (
        "shop@2", "tiny-shout@1", "shout@1"
    )  # fmt: skip
    assert done["improved"]["rows"]["trained"] + done["improved"]["rows"]["validated"] == 3
    assert app.run("three", durable=True) == done
    assert app.run("four")["outcome"] == "unchanged", "nothing new was reviewed, and no alarm is about the new champion"

    # The next time, rows join those that the champion learned from, by the recipe that it was made by.
    app.alarm("r2", release="shop@2")
    app.review(app.run("five")["review"]["file"], True)
    found = app.run("six", recipe=None)
    assert found["improved"]["model"] == "tiny-shout@2", "the same parent, not the fine-tune of a fine-tune"
    assert app.shop.registry.models.get("tiny-shout@2").provenance["parent"] == "tiny@1"
    assert found["improved"]["rows"]["trained"] + found["improved"]["rows"]["validated"] == 4


def test_each_step_done_twice_leaves_what_it_leaves_once(app):
    waits = app.run("one", times=2)
    assert waits["outcome"] == "waits for review"
    assert waits["review"]["rows"] == len(Path(waits["review"]["file"]).read_text().splitlines()) == 2
    app.review(waits["review"]["file"], True, True)
    done = app.run("two", times=2)
    assert (done["outcome"], done["learned"]["taken"], app.champion.ref) == ("promoted", 2, "shop@2")
    assert len((app.settings.improve_dir / "shop" / "training" / "rows.jsonl").read_text().splitlines()) == 2
    assert [model.version for model in app.shop.registry.models.versions("tiny-shout")] == [1]


def test_an_optimizers_recipe_looks_for_a_prompt_and_stops_where_none_is_better(app):
    recipe = app.folder / "optimize.toml"
    recipe.write_text('optimizer = "examples"\nbudget = 100\nmost_examples = 1\n')
    app.review(app.run("one", recipe=str(recipe))["review"]["file"], True, True)
    done = app.run("two", recipe=str(recipe))
    assert (done["verdict"], done["outcome"]) == ("fail", "not improved")
    assert "no prompt was better than shout@1 on held-out rows" in done["told"]
    assert app.champion.ref == "shop@1"


def test_what_cannot_be_improved_is_said_before_anything_is_done(app):
    steps = ImproveSteps(app.settings)
    with pytest.raises(CannotRun, match="nobody has no champion to improve"):
        steps.find("nobody", None, None, None)
    with pytest.raises(CannotRun, match="shop@1 has no gate on record: name a suite"):
        steps.find("shop", None, None, None)
    for text, problem in (
        ('optimizer = "luck"', "optimizer: "),
        ('optimizer = "examples"\ncolour = 1', "colour"),
        ('epochs = "many"', "epochs: "),
    ):
        (app.folder / "wrong.toml").write_text(text)
        with pytest.raises(BadFile, match=rf"wrong\.toml.*{problem}"):
            steps.find("shop", "shout", str(app.folder / "wrong.toml"), None)
    (app.folder / "evidence.json").write_text('{"alarms": [{"id": 1}]}')
    with pytest.raises(BadFile, match="must be evidence of the monitor"):
        steps.find("shop", "shout", None, str(app.folder / "evidence.json"))


def test_alarms_of_an_evidence_file_stand_for_the_apps_own(app):
    same = {"what": "a", "kind": "drift", "why": "b"}
    evidence = {"alarms": [
        {**same, "id": 7, "side": "input", "rows": ["r2", "gone"], "release": None},
        {**same, "id": 8, "side": "output", "rows": ["r1"], "release": "shop@0"},
        {**same, "id": 9, "side": "service", "rows": ["r0"], "release": "shop@1"},
    ]}  # fmt: skip
    (app.folder / "evidence.json").write_text(json.dumps(evidence))
    done = app.run("one", evidence=str(app.folder / "evidence.json"))
    assert [alarm["id"] for alarm in done["alarms"]] == [7], "not another release's, nor one about speed"
    (line,) = map(json.loads, Path(done["review"]["file"]).read_text().splitlines())
    assert (line["inputs"], line["review"]["output"]) == ({"question": "stop that now"}, "hm")


# Each step's work is done, and the process killed before the result is kept; the next process gets by that step.
SCRIPT = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from labs.llm.improve import ImproveSteps, pipeline
from llmops.pipelines import Pipelines
from llmops.production_log import ProductionLog
from llmops.settings import Settings
from tests.labs.llm.canary import canary_traffic

settings, folder, cycle = Settings.from_environment(), Path(sys.argv[1]), sys.argv[2]

def log_traffic(_seconds):
    log = ProductionLog(settings.resolved_log_url)
    log.import_records(canary_traffic("shop", datetime.now(UTC), 150))
    log.close()

class Deadly(ImproveSteps):
    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        own = ("find", "open_review", "take_reviewed", "improve")
        if name not in (*own, "register", "evaluate", "gate", "canary", "monitor", "promote", "renew_reference"):
            return found
        def work(*arguments):
            result = found(*arguments)
            if not (folder / f"killed-{cycle}-{name}").exists():
                (folder / f"killed-{cycle}-{name}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return work

given = {"app": "shop", "suite": "shout", "recipe": str(folder / "recipe.toml"), "dry_run": False, "minimum_rows": 150}
with Pipelines(settings) as pipelines:
    work = Deadly(settings, nap=log_traffic)
    print(pipelines.run(pipeline(settings, work=work), given, cycle=cycle).result["outcome"])
"""


@pytest.mark.slow
def test_each_step_may_be_killed(app, monkeypatch):
    for name in ("home", "eval_sets", "prompts"):
        monkeypatch.setenv(f"LLMOPS_{name.upper()}", str(getattr(app.settings, name)))
    monkeypatch.setenv("LLMOPS_ENGINE", "fake")
    monkeypatch.setenv("LLMOPS_ENGINE_THREADS", "1")

    def ended(cycle: str) -> tuple[int, str]:
        """How often it was killed, and its outcome."""
        for killed in range(20):
            command = [sys.executable, "-c", SCRIPT, str(app.folder), cycle]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode != -9:
                assert done.returncode == 0, done.stderr
                return killed, done.stdout.strip().splitlines()[-1]
        raise AssertionError("killed again and again")

    assert ended("one") == (3, "waits for review")
    review = app.settings.improve_dir / "shop" / "one.jsonl"
    assert len(review.read_text().splitlines()) == 2
    app.review(str(review), True, True)
    assert ended("two") == (11, "promoted")
    registry = app.shop.registry
    assert [model.ref for model in registry.models.versions("tiny-shout")] == ["tiny-shout@1"]
    assert [release.ref for release in registry.release_versions.versions("shop")] == ["shop@1", "shop@2"]
    assert app.champion.ref == "shop@2"
    assert len((review.parent / "training" / "rows.jsonl").read_text().splitlines()) == 2
