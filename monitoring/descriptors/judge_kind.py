"""The kind `judge`: what a language model says of an answer, through any OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from llmops.errors import EngineError, UsageError
from llmops.production_log import LogRecord
from llmops.settings import Settings
from monitoring.descriptors.computation import Computation, Failed
from monitoring.descriptors.model import Kind
from monitoring.tables import Table

if TYPE_CHECKING:
    from llmops.judges import JudgeEndpoint
    from llmops.judges.rubric import RubricJudge

_MOST_CHARACTERS = 20_000


def make_judge(table: Table, settings: Settings) -> Computation:
    """`instructions`, `scale` and `good` as in a suite's `judge.rubric`; `[descriptor.endpoint]`: its fields, by
    default those of the setting `judge`.

    The scale `pass_fail`, or labels with `good`, give a flag that is true for a good answer; points give their share of
    the way from worst to best; labels without `good` give the label. The answer must follow a JSON schema. A judge that
    cannot be reached raises EngineUnavailable before it is asked about a row; the next run asks.

    Raises:
        BadFile: no endpoint, or a wrong parameter.
    """
    from llmops.judges.rubric import RubricJudge

    scale, good = table.any("scale", "pass_fail"), table.any("good", None)
    labels = isinstance(scale, list) and all(isinstance(label, str) for label in scale)
    value: Kind = "label" if labels and good is None else "flag" if labels or scale == "pass_fail" else "numeric"
    try:
        endpoint = _endpoint(table, settings)
        judge = RubricJudge(
            str(table.any("name")),
            endpoint=endpoint,
            instructions=table.text("instructions"),
            scale=scale,
            good=scale[:1] if value == "label" else good,
        )
    except UsageError as error:
        raise table.wrong("judge", str(error)) from error
    identity = {"judge": dict(judge.identity), "characters": _MOST_CHARACTERS}

    def verdicts(records: Sequence[LogRecord]) -> Sequence[Any]:
        endpoint.check()  # a judge that is away would leave these rows without a value for good
        with ThreadPoolExecutor(judge.side_by_side, thread_name_prefix="judge") as pool:
            return list(pool.map(lambda record: _verdict(judge, record, value), records))

    return Computation(verdicts, identity, value)


def _endpoint(table: Table, settings: Settings) -> JudgeEndpoint:
    from llmops.judges import JudgeEndpoint

    given, name = table.mapping("endpoint", {}), str(table.any("name"))
    if given:
        return JudgeEndpoint.from_mapping({"name": name, "timeout": 30.0, "retries": 1, **given})
    if settings.judge is None:
        raise UsageError("endpoint: give base_url and model in [descriptor.endpoint], or set LLMOPS_JUDGE")
    url, _, model = settings.judge.removeprefix("openai:").rpartition("#")
    return JudgeEndpoint.from_mapping(
        {"name": name, "base_url": url, "model": model, "key_variable": settings.judge_key_variable}
    )


def _verdict(judge: RubricJudge, record: LogRecord, value: Kind) -> Any:
    from llmops.evaluation.eval_set import EvalRow
    from llmops.evaluation.results import Output

    row = EvalRow(record.key, {"input": record.input[:_MOST_CHARACTERS]})
    try:
        score = judge.judge(row, Output(record.output[:_MOST_CHARACTERS]))
    except EngineError as error:
        return Failed.of(error)
    return score.label if value == "label" else score.value
