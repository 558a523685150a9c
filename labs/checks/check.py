"""A module's check: achievements, and questions whose answers are recomputed from the home."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from llmops.errors import BadFile, UsageError
from llmops.hashing import JsonData
from llmops.settings import Settings
from llmops.text_io import read_toml, write_text

ANSWERS = "answers.toml"
"""In the home: a table for each module, an answer a line. Edit it, or let `--answer` write it."""
MODULES: Mapping[str, str] = {
    "wine": "labs.checks.tabular:check_wine",
    "bike": "labs.checks.tabular:check_bike",
    "insurance": "labs.checks.tabular:check_insurance",
    "pipeline": "labs.checks.pipeline:check_pipeline",
    "llmops": "labs.checks.language_model:check_llmops",
}
"""By name of a module: the function that gathers its achievements and questions from a home."""

NOTHING_YET = "nothing yet"
"""What a home shows of an achievement that nobody has begun."""

Answer = str | int | float


@dataclass(frozen=True, slots=True)
class Achievement(JsonData):
    """what: in a few words. done: whether the home shows it. found: what the home shows. next: what to do, as long as
    it is not done."""

    what: str
    done: bool
    found: str
    next: str


@dataclass(frozen=True, slots=True)
class Question:
    """key: what `--answer` calls it. asks: the question. value: recomputed from the home; None as long as the home
    cannot tell. A text may list several values, separated by commas, in any order. tolerance: of a number."""

    key: str
    asks: str
    value: Answer | None
    tolerance: float = 0.0

    def accepts(self, answer: Answer) -> bool:
        """Whether the answer is right. Numbers may be given as text, `28.9%` and `108,571` too; of `batch 07` the
        number is enough."""
        if self.value is None:
            return False
        if isinstance(self.value, str):
            return _listed(str(answer)) == _listed(self.value)
        try:
            return math.isclose(_number(answer), self.value, rel_tol=1e-9, abs_tol=self.tolerance)
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Answered(JsonData):
    """A question as it stands. answer: the learner's, None where there is none."""

    key: str
    asks: str
    answer: Answer | None
    state: Literal["right", "wrong", "unanswered", "not yet known"]


@dataclass(frozen=True, slots=True)
class ModuleCheck(JsonData):
    """What a home shows of a module. done: everything is achieved, and every answer right."""

    module: str
    done: bool
    achievements: tuple[Achievement, ...]
    questions: tuple[Answered, ...]


Gathered = tuple[Sequence[Achievement], Sequence[Question]]


def has_store(settings: Settings) -> bool:
    """Whether the home has a registry. To open one would make it, and a check makes nothing."""
    return settings.tracking_uri is not None or (settings.home / "mlflow.db").is_file()


def check_module(module: str, settings: Settings, answers: Mapping[str, Any] | None = None) -> ModuleCheck:
    """Recomputes what the home shows of a module. answers: new ones by key; they are kept in the home.

    Raises:
        UsageError: no such module or question. BadFile: the file of answers cannot be read. CannotRun: the home cannot.
    """
    if module not in MODULES:
        raise UsageError(f"no module {module!r}; there are {', '.join(MODULES)}")
    gather: Callable[[Settings], Gathered] = resolve_name(MODULES[module])
    achievements, questions = gather(settings)
    given = _answers(module, settings, answers or {}, [question.key for question in questions])
    told = tuple(_answered(question, given.get(question.key)) for question in questions)
    done = all(each.done for each in achievements) and all(each.state == "right" for each in told)
    return ModuleCheck(module, done, tuple(achievements), told)


def _answers(module: str, settings: Settings, new: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Answer]:
    """The learner's answers to a module's questions, new ones added."""
    for key, answer in new.items():
        if key not in keys:
            raise UsageError(f"--answer {key}: no question of module {module}; there are {', '.join(keys)}")
        if not _is_answer(answer):
            raise UsageError(f"--answer {key}: must be a text or a number")
    path = settings.home / ANSWERS
    tables = read_toml(path) if path.is_file() else {}
    for table, answers in tables.items():
        if not isinstance(answers, dict):
            raise BadFile(path, f"must stand in a table, such as [{module}]", field=table)
        for key, answer in answers.items():
            if not _is_answer(answer):
                raise BadFile(path, "must be a text or a number", field=f"{table}.{key}")
    mine: dict[str, Answer] = {**tables.get(module, {}), **new}
    if new:
        tables[module] = mine
        lines = [
            line
            for table, answers in tables.items()
            for line in (f"[{table}]", *(f"{key} = {json.dumps(answer)}" for key, answer in answers.items()), "")
        ]
        settings.home.mkdir(parents=True, exist_ok=True)
        write_text(path, "\n".join(lines))
    return mine


def _answered(question: Question, answer: Answer | None) -> Answered:
    state: Literal["right", "wrong", "unanswered", "not yet known"]
    if answer is None:
        state = "unanswered"
    elif question.value is None:
        state = "not yet known"
    else:
        state = "right" if question.accepts(answer) else "wrong"
    return Answered(question.key, question.asks, answer, state)


def _is_answer(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def _number(answer: Answer) -> float:
    """Raises ValueError: it is none."""
    text = str(answer).strip()
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def _listed(text: str) -> list[str]:
    """The values of a list, sorted; of a window that has a number, such as `batch 07`, that number."""
    return sorted(re.sub(r"^(?:batch )?0*(\d+)$", r"\1", part.strip().casefold()) for part in text.split(","))
