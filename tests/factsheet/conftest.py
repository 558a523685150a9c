"""Sheets made up in memory."""

import dataclasses
from typing import Any

from llmops.factsheet.contents import (
    Action,
    Data,
    Factsheet,
    History,
    JudgeAgreement,
    MetricDifference,
    Model,
    Monitoring,
    Period,
    RecordedAlarm,
    RecordedEvaluation,
    RecordedGate,
    RecordedMetric,
    RecordedMove,
    RecordedPrompt,
    RecordedWindow,
    Registered,
    Slice,
    Tabular,
)
from llmops.tabular import Column

AT = "2026-05-01T10:00:00+00:00"
LATER = "2026-05-09T10:00:00+00:00"


def evaluation(**changed: Any) -> RecordedEvaluation:
    made = RecordedEvaluation(
        suite="qa",
        run_id="f" * 32,
        at=AT,
        by="anna",
        rows=240,
        metrics=(
            RecordedMetric("correct", 0.61, (0.55, 0.67), 240, 0),
            RecordedMetric("fields", None, None, 0, 240),
            RecordedMetric("words", 8.5, (8.1, 8.9), 230, 10),
        ),
        slices=(Slice("topic=geo", RecordedMetric("correct", 0.4, (0.2, 0.6), 20, 0)),),
        deciding=("correct", "words"),
        settings={"engine.name": "llamacpp"},
        data=("qa",),
        judges={"helpful": None, "kind": JudgeAgreement(0.71, (0.6, 0.8), 50)},
        noise={"flips": 7, "n": 32},
    )
    return dataclasses.replace(made, **changed)


def gate(**changed: Any) -> RecordedGate:
    made = RecordedGate(
        suite="qa",
        verdict="pass",
        against="assistant@1",
        reasons=("correct 0.500 → 0.610: significantly better",),
        at=AT,
        run_id="f" * 32,
        rules={"primary": "correct", "rule": "better", "margin": 0.0, "floors": {"correct": 0.4}},
        differences=(
            MetricDifference("correct", 0.5, 0.61, 0.11, (0.05, 0.17), 0.0004, 240),
            MetricDifference("correct", 0.5, 0.4, -0.1, (-0.3, 0.1), 0.3, 20, slice="topic=geo"),
        ),
        power={"correct": "with 240 rows a difference of 9 points can be seen"},
    )
    return dataclasses.replace(made, **changed)


def _monitoring() -> Monitoring:
    return Monitoring(
        windows=9,
        rows=1200,
        since=AT,
        until=LATER,
        alarmed=1,
        too_few=2,
        expected_false_alarms=0.1,
        alarms=(RecordedAlarm(AT, LATER, "output.refusal", "rose from 1 % to 9 %", "high", True, "a" * 32),),
        latest=(
            RecordedWindow(AT, LATER, 140, "alarm", 1, error=41.25),
            RecordedWindow(AT, LATER, 130, "ok", 0, estimated_error=38.0),
        ),
        actions=(Action(LATER, "rollback", "refusals rose", "champion assistant@1", True, "b" * 32),),
    )


def sheet(**changed: Any) -> Factsheet:
    """A release of which everything is on record."""
    made = Factsheet(
        ref="assistant@2",
        kind="release",
        made_at=LATER,
        llmops="0.1.0",
        store="sqlite:///mlflow.db",
        aliases=("champion",),
        description="",
        registered=(Registered("release", "assistant@2", AT, "anna"), Registered("prompt", "qa@2", AT, "anna")),
        parameters={"max_tokens": 32, "temperature": 0.0},
        guards=("redact-pii", "max-output=40"),
        prompt=RecordedPrompt(
            "qa@2", "c" * 64, "question", (("system", "Be terse."), ("user", "{{ question }}")), "Terse."
        ),
        model=Model("tiny@1", "file:/models/tiny.gguf", "gguf", "d" * 64, "MIT", 1_000_000, {"parent": "tiny@0"}),
        data=(Data("evaluation", "qa", "e" * 64, "CC-BY-4.0", 240, "MLflow dataset d-1"),),
        evaluations=(evaluation(),),
        gates=(gate(),),
        history=History(
            (RecordedMove(AT, "promote", "assistant@1", "assistant@2", "gate passed", "anna"),),
            (Period(AT, None, True, "promote", why="gate passed", after="assistant@1"),),
            "audit log",
            complete=True,
        ),
        monitoring=_monitoring(),
    )
    return dataclasses.replace(made, **changed)


def tabular_sheet(**changed: Any) -> Factsheet:
    """A tabular model of which little is on record."""
    columns = (Column("hour", "integer"), Column("weather", "text", True, ("clear", "rain")))
    made = sheet(
        ref="bike@2",
        kind="tabular",
        prompt=None,
        model=None,
        guards=(),
        parameters={"max_depth": 8},
        tabular=Tabular(
            "bike@2", "regression", "GradientBoosting", "9" * 64, "mlflow-artifacts:/1", "8" * 32, columns,
            Column("count", "integer"),
        ),
        data=(Data("training", "bike-2011", "7" * 64, "CC-BY-4.0", 8645),),
        evaluations=(),
        gates=(),
        monitoring=None,
    )  # fmt: skip
    return dataclasses.replace(made, **changed)
