"""The reference page of scorers, written from their classes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llmops.evaluation.scorers import MEANINGS, SCORER_TYPES, Scorer, meaning_of
from llmops.evaluation.scorers.options import options_of
from llmops.evaluation.scorers.protocol import best_of
from llmops.judges import TYPES, JudgeEndpoint
from llmops.judges.meanings import MEANINGS as JUDGES_MEANINGS

_ENDPOINT = JudgeEndpoint("none", "http://localhost/v1", "none")
_NEEDED: Mapping[str, Mapping[str, Any]] = {
    "json_schema": {"schema": {}},
    "cost": {"per_million_in": 1, "per_million_out": 1},
    "semantic_similarity": {"embed": list},
    "judge.rubric": {"instructions": "x"},
    "mlflow.make_judge": {"instructions": "{{ outputs }}"},
    "mlflow.Guidelines": {"guidelines": "x"},
    "mlflow.ConversationalGuidelines": {"guidelines": "x"},
}
_HEAD = """# Scorers

Every scorer type that a suite may name, with its options and what it does not count. Written by `make docs` from the
scorers themselves. How a suite names them: [suites.md](suites.md). What is done where ragas or MLflow is wrong:
[decision 18](adr/0018-a-perfect-answer-scores-best.md).

A suite that is run, or checked by `llmops eval-set check`, has tried each of its scorers on a made-up row, but for
those that depend on a model. An option that a type does not have, or a wrong value, is an error that names file,
scorer and option and lists the options that there are.
"""
_JUDGES = """Each asks a language model, one of the suite's `[judges]` tables; `judge` names it where there are several.
Those of ragas and MLflow put their questions with ragas' and MLflow's own prompts. What a row or an output says is put
into a prompt once and as it is, also where it looks like a placeholder. `input_variable` names the input that is the
question, where a row has several. Of several expected answers `judge.rubric` is shown all, the others the first.
"""


def scorers_page() -> str:
    lines = [_HEAD, "## Without a judge", ""]
    lines += _sections(SCORER_TYPES, MEANINGS)
    lines += ["## With a judge", "", _JUDGES]
    lines += _sections(TYPES, JUDGES_MEANINGS)
    return "\n".join(lines).rstrip() + "\n"


def _sections(types: Mapping[str, Callable[..., Scorer]], meanings: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(types):
        yield f"### `{name}`"
        yield ""
        text = meaning_of(name, types, meanings)
        if "\n" not in text:
            text = textwrap.fill(f"{text[0].upper()}{text[1:].removesuffix('.')}.", 120, break_on_hyphens=False)
        yield text
        yield ""
        yield f"Best value: {_best(_made(name, types))}."
        options = options_of(types[name]) or ()
        if options:
            yield ""
            yield "| option | | default |"
            yield "| --- | --- | --- |"
            for option in options:
                yield f"| `{option.name}` | {option.kind} | {_default(option.needed, option.default)} |"
        yield ""


def _default(needed: bool, default: str) -> str:
    if needed:
        return "must be given"
    return f"`{default}`" if default else "none"


def _made(name: str, types: Mapping[str, Callable[..., Scorer]]) -> Scorer:
    given = dict(_NEEDED.get(name, {}))
    if name in TYPES:
        given |= {"endpoint": _ENDPOINT, "embed": list}
    return types[name]("s", **given)


def _best(scorer: Scorer) -> str:
    best = best_of(scorer)
    if best is None:
        return "none, neither more nor less is better" if scorer.higher_is_better is None else "none is known"
    return f"{best:g}, less is better" if not scorer.higher_is_better else f"{best:g}"
