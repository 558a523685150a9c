"""Kinds whose values come from elsewhere.

`evidently`: any of its own text descriptors, by name. `judge`: what a language model says of an answer. `python`: a
function of one's own. `similarity`: how close an answer is to its question, by sentence embeddings.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from llmops.errors import CannotRun, EngineError, UsageError, first_line
from llmops.production_log import LogRecord
from llmops.settings import Settings
from monitoring.descriptors.model import Computation, Compute, DescriptorKind, Failed, Kind, Texts, each
from monitoring.tables import ConfigTable, nearest

if TYPE_CHECKING:
    from llmops.judges import JudgeEndpoint


def make_similarity(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001 - it has no parameters
    """Cosine of question and answer, from -1 to 1, by the catalogue's embedding model (MiniLM: their first 256 tokens).

    None where one of them is blank. Some 50 ms a row on one core: declare it with `sampled`.
    """
    from llmops.engines.embedding import Embedder

    embed = Embedder(settings)
    return Computation(cosines_by(embed), embed.identity)


def cosines_by(embed: Callable[[Sequence[str]], Any]) -> Compute:
    """The cosine of each record's question and answer, by an embedding into vectors of length 1."""

    def cosines(records: Sequence[LogRecord]) -> list[float | None]:
        both = [bool(record.input.strip() and record.output.strip()) for record in records]
        chosen = [record for record, whole in zip(records, both, strict=True) if whole]
        if not chosen:
            return [None] * len(records)
        # As far as the model reads, and without halves of surrogate pairs, which its tokenizer refuses.
        both_texts = (text[:4_000] for record in chosen for text in (record.input, record.output))
        texts = [text.encode("utf-8", "replace").decode() for text in both_texts]
        vectors = embed(texts)
        similarities = iter((vectors[0::2] * vectors[1::2]).sum(axis=1).tolist())
        return [next(similarities) if whole else None for whole in both]

    return cosines


def make_python(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`function = "module:name"` of a text (of input or output) or of a log record (of pair, or of record).

    `returns`: numeric, flag or label. `per`: `row` calls it for each, `column` once with a list, for as many values.
    None means no value. `revision`: to be raised when the function changes, for its code is not looked at.

    Raises BadFile: there is no such function.
    """
    module, _, name = table.text("function").partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise table.wrong("function", f"must be module:name of a function that can be imported: {error}") from error
    if not callable(function):
        raise table.wrong("function", f"{module}:{name} is not a function")
    value = cast(Kind, table.choice("returns", ("numeric", "flag", "label")))
    table.whole("revision", least=1)
    whole = table.choice("per", ("row", "column"), "row") == "column"
    return Computation((lambda items: list(function(list(items)))) if whole else each(function), value=value)


_MOST_CHARACTERS = 20_000


def make_judge(table: ConfigTable, settings: Settings) -> Computation:
    """`instructions`, `scale` and `good` as in a suite's `judge.rubric`; `[descriptor.endpoint]`: its fields, by
    default those of the setting `judge`.

    The scale `pass_fail`, or labels with `good`, give a flag that is true for a good answer; points give their share of
    the way from worst to best; labels without `good` give the label. The answer must follow a JSON schema. A judge that
    cannot be reached raises EngineUnavailable before it is asked about a row; the next run asks.

    Raises BadFile: no endpoint, or a wrong parameter.
    """
    from llmops.evaluation.eval_set import EvalRow
    from llmops.evaluation.results import Output
    from llmops.judges.scorer import RubricJudge

    scale, good = table.any("scale", "pass_fail"), table.any("good", None)
    labels = isinstance(scale, list) and all(isinstance(label, str) for label in scale)
    value: Kind = "label" if labels and good is None else "flag" if labels or scale == "pass_fail" else "numeric"
    try:
        endpoint = _endpoint(table, settings)
        judge = RubricJudge(
            name=str(table.any("name")),
            endpoint=endpoint,
            instructions=table.text("instructions"),
            scale=scale,
            good=scale[:1] if value == "label" else good,
        )
    except UsageError as error:
        raise table.wrong("judge", str(error)) from error
    identity = {"judge": dict(judge.identity), "characters": _MOST_CHARACTERS}

    def verdict(record: LogRecord) -> Any:
        row = EvalRow(record.key, {"input": record.input[:_MOST_CHARACTERS]})
        try:
            score = judge.judge(row, Output(record.output[:_MOST_CHARACTERS]))
        except EngineError as error:
            return Failed.of(error)
        return score.label if value == "label" else score.value

    def verdicts(records: Sequence[LogRecord]) -> Sequence[Any]:
        endpoint.check()  # a judge that is away would leave these rows without a value for good
        with ThreadPoolExecutor(judge.side_by_side, thread_name_prefix="judge") as pool:
            return list(pool.map(verdict, records))

    return Computation(verdicts, identity, value)


def _endpoint(table: ConfigTable, settings: Settings) -> JudgeEndpoint:
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


_OURS = {"SemanticSimilarity": "similarity", "ContextRelevance": "similarity", "OpenAI": "judge", "LLMEval": "judge"}
_FETCH = ("HuggingFace", "HuggingFaceToxicity", "BERTScore")
_PROBE = "A probe: it is one short sentence."


def make_evidently(table: ConfigTable, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`class`: its name; `parameters`: all but the column; `returns`: numeric, flag or label.

    The class is looked up when the first batch is described, for importing Evidently takes seconds. An empty text has
    no value: several of Evidently's raise on it. Nothing is downloaded: nltk's data must lie in one of its folders.

    Raises BadFile: a class that fetches a model, or asks one that another kind here asks better.
    """
    name, parameters = table.text("class"), table.mapping("parameters", {})
    value = cast(Kind, table.choice("returns", ("numeric", "flag", "label")))
    ours = next((kind for start, kind in _OURS.items() if name.startswith(start) or name.endswith(start)), None)
    if ours or name.endswith("LLMJudge"):
        raise table.wrong("class", f"{name} asks a model; use the kind {ours or 'judge'}")
    if name in _FETCH:
        raise table.wrong("class", f"{name} downloads a model when it is used")

    def values(texts: Sequence[str]) -> list[Any]:
        return _evidently_values(name, parameters, value, texts)

    @cache
    def probe() -> None:
        try:
            values([_PROBE])
        except CannotRun:
            raise
        except Exception as error:
            raise CannotRun(f"Evidently's {name} cannot run here: {first_line(error)}") from error

    def compute(texts: Texts) -> list[Any]:
        """Raises CannotRun when it cannot describe a plain sentence either."""
        probe()
        given = iter(values([text for text in texts if text]))
        return [next(given) if text else None for text in texts]

    return Computation(compute, value=value)


def _evidently_values(name: str, parameters: Mapping[str, Any], value_kind: Kind, texts: Sequence[str]) -> list[Any]:
    import pandas as pd

    from monitoring.evidently_import import evidently, without_nltk_downloads

    if not texts:
        return []
    library = evidently()
    known = sorted(name for name in vars(library.descriptors) if name[0].isupper())
    if name not in known:
        raise CannotRun(f"Evidently has no descriptor {name!r}{nearest(name, known)}")
    kind = getattr(library.descriptors, name)
    if "column_name" not in inspect.signature(kind).parameters:
        raise CannotRun(f"Evidently's {name} does not read one text")
    frame = pd.DataFrame({"text": pd.Series(list(texts), dtype=object)})
    with without_nltk_downloads():
        dataset = library.Dataset.from_pandas(
            frame,
            data_definition=library.DataDefinition(text_columns=["text"]),
            descriptors=[kind("text", **parameters, alias="value")],
        )
    plain: dict[Kind, Callable[[Any], Any]] = {
        "flag": lambda value: value not in (0, "0", "False", ""),
        "numeric": float,
        "label": str,
    }
    read, values = plain[value_kind], dataset.as_dataframe()["value"]
    return [None if value is None or value != value else read(value) for value in values]  # NaN is not itself


OUTSIDE_KINDS: Mapping[str, DescriptorKind] = {
    "python": DescriptorKind("numeric", make_python, of=("input", "output", "pair", "record")),
    "similarity": DescriptorKind("numeric", make_similarity, of=("pair",)),
    "judge": DescriptorKind("numeric", make_judge, of=("pair",)),
    "evidently": DescriptorKind("numeric", make_evidently),
}
