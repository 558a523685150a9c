"""Makes the scorers of a suite: the built-in ones, judges with their endpoint, and the embedding model where needed."""

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from llmops.engines.embedding import Embedder, embedding_weights
from llmops.errors import UsageError
from llmops.evaluation.scorers import SCORER_TYPES, Scorer, make_scorer
from llmops.evaluation.scorers.protocol import CachedScorer
from llmops.evaluation.suite import ScorerSpec, Suite
from llmops.judges import NEEDS_EMBEDDINGS, NEEDS_NO_JUDGE, TYPES, JudgeEndpoint
from llmops.judges.calibration import judge_hash
from llmops.models.sources import EMBEDDING_MODEL, catalogue_model
from llmops.recording import find_calibration
from llmops.registry.store import Store
from llmops.settings import Settings

DEFAULT_JUDGE = "default"
JUDGED_TYPES = TYPES.keys() - NEEDS_NO_JUDGE
"""Scorer types whose judgements a language model makes."""
_EMBEDDING_TYPES = {"semantic_similarity", *NEEDS_EMBEDDINGS}


@dataclass(frozen=True)
class ScorerFactory:
    """A suite's judges come from its `[judges.NAME]` tables; LLMOPS_JUDGE gives one to suites that name none."""

    settings: Settings

    @functools.cached_property
    def _embed(self) -> Embedder:
        return Embedder(self.settings)

    def make(self, spec: ScorerSpec, judges: Mapping[str, Mapping[str, Any]]) -> Scorer | None:
        """The scorer; None for a judge's when no judge is configured. Raises UsageError: an unknown type, parameter or
        judge, naming it."""
        parameters, types = dict(spec.parameters), {**SCORER_TYPES, **TYPES}
        bound: dict[str, Any] = {}
        also_listed: tuple[str, ...] = ()
        lacks_judge = False
        if spec.type in _EMBEDDING_TYPES:
            bound["embed"] = self._embed
        if spec.type in TYPES:
            also_listed = ("judge",)
            endpoint = self.endpoint(judges, parameters.pop("judge", None))
            lacks_judge = endpoint is None and spec.type in JUDGED_TYPES
            bound["endpoint"] = endpoint or JudgeEndpoint("none", "http://localhost/v1", "none")
        if bound:
            types[spec.type] = functools.partial(types[spec.type], **bound)
        # Made in any case, which asks nothing: wrong options are to show also where no judge is configured.
        scorer = make_scorer(spec.name, spec.type, parameters, types, also_listed)
        return None if lacks_judge else scorer

    def endpoint(self, judges: Mapping[str, Mapping[str, Any]], name: str | None = None) -> JudgeEndpoint | None:
        """The judge of that name; without a name the suite's only one, else the setting's. Raises UsageError."""
        if name is None and len(judges) == 1:
            name = next(iter(judges))
        if name is not None and name not in judges and name != DEFAULT_JUDGE:
            raise UsageError(f"judge: the suite has no judge {name!r}; it has {', '.join(judges) or 'none'}")
        if name is not None and name in judges:
            table = {key: value for key, value in judges[name].items() if key != "kappa"}
            return JudgeEndpoint.from_mapping({"name": name, **table})
        if self.settings.judge is None:
            return None
        url, _, model = self.settings.judge.removeprefix("openai:").rpartition("#")
        values = {"name": DEFAULT_JUDGE, "base_url": url, "model": model}
        return JudgeEndpoint.from_mapping({**values, "key_variable": self.settings.judge_key_variable})

    def check(self, suite: Suite, scorers: Collection[str]) -> None:
        """Before rows are answered: the judges of these scorers can be reached, and the embedding model is at hand.
        Raises EngineUnavailable: a judge has no key or cannot be reached. CannotRun: the embedding model cannot be
        had."""
        used = [spec for spec in suite.scorer_specs if spec.name in scorers and spec.name not in suite.left_out]
        judged = [spec.parameters.get("judge") for spec in used if spec.type in JUDGED_TYPES]
        for endpoint in dict.fromkeys(self.endpoint(suite.judges, name) for name in judged):
            if endpoint is not None:
                endpoint.check()
        if any(spec.type in _EMBEDDING_TYPES for spec in used):
            embedding_weights(self.settings, catalogue_model(EMBEDDING_MODEL))


def untrusted(suite: Suite, store: Store) -> dict[str, str]:
    """Judge scorers of the suite that may not gate, and why. Raises StoreUnavailable."""
    reasons = dict.fromkeys(suite.left_out, "no judge is configured")
    judged = {spec.name for spec in suite.scorer_specs if spec.type in JUDGED_TYPES}
    for scorer in suite.make_scorers():
        if scorer.name in judged and isinstance(scorer, CachedScorer):
            asked = suite.kappa_asked(scorer.name)
            why = calibration_problem(find_calibration(store, judge_hash(scorer)), asked)
            if why is not None:
                reasons[scorer.name] = why
    return reasons


def calibration_problem(calibration: dict[str, Any] | None, kappa_asked: float) -> str | None:
    """Why a judge may not gate; None when it may. The lower end of κ's interval counts, so that a few lucky labels
    are not enough."""
    if calibration is None:
        return "its judge is not calibrated; run `llmops eval calibrate-judge`"
    kappa, low = calibration["kappa"], calibration["kappa_low"]
    if kappa is None or low is None:
        return "its judge's agreement with people cannot be told from the labelled rows"
    if low < kappa_asked:
        return f"its judge's agreement with people, κ {kappa:.2f}, is not surely {kappa_asked:g} or more"
    return None
