"""Candidates, and how the best is found: each one's parameters by cross-validation on the training rows alone, then a
model of the best. The rows held out are looked at once, at the end."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from labs.data import LabelledRows, Split
from labs.evaluation import MetricEstimate
from llmops.tabular import RowSchema

Parameters = Mapping[str, Any]
Fold = tuple[Sequence[int], Sequence[int]]
"""Positions of the rows to fit on, and of those to judge on."""
Loss = Callable[[Any, Any], float]
"""Of (truth, predictions); less is better."""
Evaluate = Callable[[LabelledRows, Any], dict[str, MetricEstimate]]
"""The metrics of predictions for rows, by name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """build: an unfitted scikit-learn estimator of such parameters. grid: the values to try of each.

    growing: the one parameter, if any, that counts trees. A model of 200 trees begins with that of 100, so that all its
    values are tried at the price of the largest (scikit-learn's `warm_start`).
    """

    name: str
    description: str
    build: Callable[[Parameters], Any]
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    growing: str | None = None

    def combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination of the parameters that do not grow."""
        names = [name for name in self.grid if name != self.growing]
        for values in product(*(self.grid[name] for name in names)):
            yield dict(zip(names, values, strict=True))

    @property
    def sizes(self) -> Sequence[Any]:
        """The values of the growing parameter, smallest first; one None without one."""
        return sorted(self.grid[self.growing]) if self.growing else (None,)

    def with_size(self, parameters: Parameters, size: Any) -> dict[str, Any]:
        """The parameters, and the growing one where there is one."""
        return {**parameters, self.growing: size} if self.growing else dict(parameters)


@dataclass(frozen=True, slots=True)
class Trial:
    """One combination of parameters. losses: one for each fold."""

    parameters: Parameters
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean over the folds."""
        return sum(self.losses) / len(self.losses)


@dataclass(frozen=True, slots=True)
class Search:
    """Every combination tried of one candidate. The first of equally good ones is the best: grids begin with what is
    simpler."""

    candidate: Candidate
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.loss)

    def to_json(self) -> dict[str, Any]:
        trials = [
            {"parameters": dict(trial.parameters), "loss": trial.loss, "losses": list(trial.losses)}
            for trial in self.trials
        ]
        named = {"candidate": self.candidate.name, "description": self.candidate.description}
        return {**named, "best": dict(self.best.parameters), "loss": self.best.loss, "trials": trials}


@dataclass(frozen=True, eq=False, slots=True)
class Trained:
    """A fitted model with all that is known of it.

    estimator: fitted on `training`, and on nothing else.
    predictions: a numpy array, one for each row held out.
    metrics: on the rows held out.
    search: how its parameters were found; None where they were given.
    """

    candidate: Candidate
    parameters: Parameters
    estimator: Any
    schema: RowSchema
    training: LabelledRows
    holdout: LabelledRows
    predictions: Any
    metrics: dict[str, MetricEstimate]
    search: Search | None = None

    @property
    def name(self) -> str:
        return self.candidate.name


def search(candidate: Candidate, rows: LabelledRows, folds: Sequence[Fold], loss: Loss) -> Search:
    """Tries every combination of the candidate's parameters on every fold. A model that grows is made once for each."""
    trials = []
    with one_thread():
        for parameters in candidate.combinations():
            losses: dict[Any, list[float]] = {size: [] for size in candidate.sizes}
            for fit_on, judge_on in (map(list, fold) for fold in folds):
                estimator = candidate.build(candidate.with_size(parameters, candidate.sizes[0]))
                for size in candidate.sizes:
                    if candidate.growing:
                        grower = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
                        grower.set_params(**{candidate.growing: size, "warm_start": True})
                    estimator.fit(rows.features.iloc[fit_on], rows.truth[fit_on])
                    predictions = estimator.predict(rows.features.iloc[judge_on])
                    losses[size].append(loss(rows.truth[judge_on], predictions))
            trials += [Trial(candidate.with_size(parameters, size), tuple(each)) for size, each in losses.items()]
    return Search(candidate, tuple(trials))


def train(
    candidate: Candidate,
    parameters: Parameters,
    schema: RowSchema,
    split: Split,
    evaluate: Evaluate,
    *,
    found_by: Search | None = None,
) -> Trained:
    """Fits a model on the training rows and judges it on those held out."""
    estimator = candidate.build(parameters)
    with one_thread():
        estimator.fit(split.training.features, split.training.truth)
        predictions = estimator.predict(split.holdout.features)
    metrics = evaluate(split.holdout, predictions)
    return Trained(
        candidate, dict(parameters), estimator, schema, split.training, split.holdout, predictions, metrics, found_by
    )


def train_all(
    candidates: Sequence[Candidate],
    schema: RowSchema,
    split: Split,
    folds: Sequence[Fold],
    loss: Loss,
    evaluate: Evaluate,
) -> tuple[Trained, ...]:
    """A model of each candidate with its best parameters, in the order of the candidates."""
    searches = [search(candidate, split.training, folds, loss) for candidate in candidates]
    return tuple(
        train(each.candidate, each.best.parameters, schema, split, evaluate, found_by=each) for each in searches
    )


def best_of(models: Sequence[Trained]) -> Trained:
    """The model with the least loss in cross-validation: choosing by the rows held out would make their metrics look
    better than they are. The first of equally good ones."""
    return min(models, key=lambda model: model.search.best.loss if model.search else float("inf"))


@contextmanager
def one_thread() -> Iterator[None]:
    """Gradient boosting's own threads wait for each other in a loop; on cores that others use too this takes many times
    longer than one thread does."""
    import sklearn.ensemble  # noqa: F401 - loads the threads' library, which is limited only once it is there
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        yield
