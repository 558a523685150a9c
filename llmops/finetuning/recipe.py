"""Recipes: what is trained, on which rows, and how; as a TOML file, kept with each run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict

from llmops.errors import BadFile, UsageError
from llmops.evaluation.contamination import NEAR
from llmops.models.merging import AUTO, PARENT
from llmops.models.quantise import TYPES
from llmops.text_io import checked, read_toml
from llmops.versions import Ref

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Strict(), Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `llmops finetune` does.

    model: the parent, `NAME@VERSION`.
    suite: whose rows must stay held out.
    train: eval sets, by name or path, whose rows are trained on.
    from_log: an app; answers of it that users rated positively are trained on too.
    prompt: the prompt version that rows are put into; None: the newest of the suite's prompt.
    name: of the model whose version the result is; None: `MODEL-SUITE`.
    epochs: how often every row is seen.
    batch_rows: rows of one optimiser step.
    rank, alpha: of LoRA's matrices; the update is scaled by alpha / rank.
    longest: tokens of a row, prompt and answer; rows that are longer are left out.
    validation: share of the rows that is not trained on, for the learning curve.
    near: similarity from which a row counts as a row of the suite, as `llmops eval-set check` measures it.
    precision: of the arithmetic; bfloat16 is faster where the processor has it.
    weights: how the merged matrices are stored: `auto` as the parent's, but with 8 bits at least; `parent`; or a type
        of GGUF.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: Text
    suite: Text
    train: tuple[Text, ...] = ()
    from_log: Text | None = None
    prompt: Text | None = None
    name: Text | None = None
    method: Literal["lora"] = "lora"
    epochs: Count = 2
    learning_rate: Positive = 5e-4
    batch_rows: Count = 8
    rank: Count = 8
    alpha: Count = 16
    longest: Count = 1024
    validation: Share = 0.1
    near: Annotated[float, Field(gt=0, le=1)] = NEAR
    precision: Literal["float32", "bfloat16"] = "float32"
    weights: str = AUTO
    seed: Annotated[int, Strict(), Field(ge=0)] = 0

    def __post_init__(self) -> None:
        if not self.train and self.from_log is None:
            raise UsageError("train: name an eval set to train on (--train), or an app (--from-log)")
        if self.weights not in (AUTO, PARENT, *TYPES):
            known = ", ".join((AUTO, PARENT, *TYPES))
            raise UsageError(f"weights: must be one of {known}, not {self.weights!r}")
        if self.name is not None and Ref.parse(self.name).name != self.name:
            raise UsageError("name: is a model's name, without a version")

    @property
    def target(self) -> str:
        """Name of the model whose version the result is."""
        return self.name or f"{Ref.parse(self.model).name}-{self.suite}"

    def to_mapping(self) -> dict[str, Any]:
        """What is set, as plain values."""
        return {name: value for name, value in asdict(self).items() if value not in (None, ())}

    def to_toml(self) -> str:
        """As `read_recipe` reads it."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in self.to_mapping().items())


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Checked construction. Raises UsageError starting with the field at fault."""
    return checked(Recipe, values)


def read_recipe(path: Path, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of a TOML file. changes: values in place of the file's. Raises BadFile."""
    try:
        return make_recipe({**read_toml(path), **changes})
    except UsageError as error:
        raise BadFile.of(error, path) from error
