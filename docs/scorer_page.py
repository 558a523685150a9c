"""The reference page of scorers, written from their classes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from llmops.evaluation.scorers import SCORER_TYPES, Scorer, default_of, describe_type, meaning_of, options_of
from llmops.evaluation.scorers.protocol import best_of
from llmops.judges import TYPES, JudgeEndpoint

_ENDPOINT = JudgeEndpoint("none", "http://localhost/v1", "none")
_READ_WHEN_MADE: Mapping[str, Mapping[str, Any]] = {
    "json_schema": {"schema": {}},
    "judge.rubric": {"instructions": ""},
    "mlflow.make_judge": {"instructions": "{{ outputs }}"},
}
"""Options without a default that a scorer reads as soon as it is made; others stay unset here."""
_HEAD = """# Scorers

Every scorer type that a suite may use, with its options and what it does not count. `make docs` generates this page
from the scorers' docstrings. [suites.md](suites.md) shows how a suite names them.
[Decision 18](adr/0018-a-perfect-answer-scores-best.md) explains how errors in ragas and MLflow are handled.

Before a suite is run, and in `llmops eval-set check`, each of its scorers is tried on a made-up row, except those that
depend on a model. An unknown option or a wrong value is an error that names file, scorer and option and lists the
valid options.
"""
_JUDGES = """Each asks a language model, defined by a `[judges]` table of the suite; `judge` selects one of several.
The scorers of ragas and MLflow use ragas' and MLflow's own prompts. Text from a row or an output is inserted into a
prompt once and unchanged, even where it looks like a placeholder. If a row has several inputs, `input_variable` names
the one that holds the question. Of several expected answers, `judge.rubric` sees all, the other scorers the first.
"""


def scorers_page() -> str:
    lines = [_HEAD, "## Without a judge", ""]
    lines += _sections(SCORER_TYPES)
    lines += ["## With a judge", "", _JUDGES]
    lines += _sections(TYPES)
    return "\n".join(lines).rstrip() + "\n"


def _sections(types: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(types):
        yield f"### `{name}`"
        yield ""
        text = meaning_of(name, types)
        if "\n" not in text:
            text = textwrap.fill(f"{text[0].upper()}{text[1:].removesuffix('.')}.", 120, break_on_hyphens=False)
        yield text
        yield ""
        given = {"endpoint": _ENDPOINT, "embed": list, **_READ_WHEN_MADE.get(name, {})}
        made = types[name].model_construct(name=name, **given)
        yield f"Best value: {_best(made)}."
        if options := options_of(types[name]):
            yield ""
            yield "| option | | default |"
            yield "| --- | --- | --- |"
            for option, field in options.items():
                default = "must be given" if field.is_required() else default_of(field)
                shown = default if default in ("must be given", "none") else f"`{default}`"
                yield f"| `{option}` | {describe_type(field)} | {shown} |"
        yield ""


def _best(scorer: Scorer) -> str:
    best = best_of(scorer)
    if best is None:
        return "none, no direction is better" if scorer.higher_is_better is None else "none is known"
    return f"{best:g}, lower is better" if not scorer.higher_is_better else f"{best:g}"
