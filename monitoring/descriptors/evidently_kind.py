"""The kind `evidently`: any of Evidently's own text descriptors, by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

from llmops.errors import CannotRun
from llmops.settings import Settings
from monitoring.descriptors.computation import Computation
from monitoring.descriptors.model import Kind
from monitoring.descriptors.texts import Texts
from monitoring.tables import Table, nearest

_OURS = {"SemanticSimilarity": "similarity", "ContextRelevance": "similarity", "OpenAI": "judge", "LLMEval": "judge"}
_FETCH = ("HuggingFace", "HuggingFaceToxicity", "BERTScore")
_PROBE = "A probe: it is one short sentence."


def make_evidently(table: Table, settings: Settings) -> Computation:  # noqa: ARG001 - what every kind is made of
    """`class`: its name; `parameters`: all but the column; `returns`: numeric, flag or label.

    The class is looked up when the first batch is described, for importing Evidently takes seconds. An empty text has
    no value: several of Evidently's raise on it. Nothing is downloaded: nltk's data must lie in one of its folders.

    Raises:
        BadFile: a class that fetches a model, or asks one that another kind here asks better.
    """
    name, parameters = table.text("class"), table.mapping("parameters", {})
    value = cast(Kind, table.choice("returns", ("numeric", "flag", "label")))
    ours = next((kind for start, kind in _OURS.items() if name.startswith(start) or name.endswith(start)), None)
    if ours or name.endswith("LLMJudge"):
        raise table.wrong("class", f"{name} asks a model; use the kind {ours or 'judge'}")
    if name in _FETCH:
        raise table.wrong("class", f"{name} downloads a model when it is used")
    return Computation(_EvidentlyColumn(name, parameters, value), value=value)


class _EvidentlyColumn:
    """Computes one Evidently descriptor over a column of texts."""

    def __init__(self, name: str, parameters: Mapping[str, Any], value: Kind) -> None:
        self._name, self._parameters, self._value = name, dict(parameters), value
        self._probed = False

    def __call__(self, texts: Texts) -> list[Any]:
        """Raises CannotRun when it cannot describe a plain sentence either."""
        if not self._probed:
            try:
                self._computed([_PROBE])
            except CannotRun:
                raise
            except Exception as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise CannotRun(f"Evidently's {self._name} cannot run here: {first}") from error
            self._probed = True
        found = iter(self._computed([text for text in texts if text]))
        return [next(found) if text else None for text in texts]

    def _computed(self, texts: Sequence[str]) -> list[Any]:
        import pandas as pd

        from monitoring.evidently_import import evidently, without_nltk_downloads

        if not texts:
            return []
        library = evidently()
        frame = pd.DataFrame({"text": pd.Series(list(texts), dtype=object)})
        with without_nltk_downloads():
            dataset = library.Dataset.from_pandas(
                frame,
                data_definition=library.DataDefinition(text_columns=["text"]),
                descriptors=[self._descriptor(library.descriptors)],
            )
        return [self._plain(value) for value in dataset.as_dataframe()["value"]]

    def _descriptor(self, library: Any) -> Any:
        known = sorted(name for name in vars(library) if name[0].isupper())
        if self._name not in known:
            raise CannotRun(f"Evidently has no descriptor {self._name!r}{nearest(self._name, known)}")
        kind = getattr(library, self._name)
        takes = inspect.signature(kind).parameters
        if "column_name" not in takes:
            raise CannotRun(f"Evidently's {self._name} does not read one text")
        return kind("text", **self._parameters, alias="value")

    def _plain(self, value: Any) -> Any:
        if value is None or value != value:  # NaN is the only value that is not itself
            return None
        if self._value == "flag":
            return value not in ("0", "False", "") if isinstance(value, str) else bool(value)
        return float(value) if self._value == "numeric" else str(value)
