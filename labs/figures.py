"""Pictures of a model on the rows held out, as matplotlib Figures that draw by themselves."""

from __future__ import annotations

from collections import Counter
from typing import Any

from labs.training import Trained, one_thread
from llmops.evaluation.scorers.classification import confusion_figure

_REPEATS = 3
_MOST_ROWS = 500  # of the rows held out: shuffling a column asks for as many predictions again


def figures(model: Trained) -> dict[str, Any]:
    """All pictures of a model by file name: where its errors lie, and which columns they depend on."""
    importance = {"feature_importance.png": feature_importance(model)}
    if model.schema.task == "classification":
        return {"confusion.png": confusion(model), **importance}
    return {"predicted_vs_true.png": predicted_vs_true(model), "residuals.png": residuals(model), **importance}


def confusion(model: Trained) -> Any:
    """How often each class was taken for which."""
    return confusion_figure(Counter(zip(map(str, model.holdout.truth), map(str, model.predictions), strict=True)))


def predicted_vs_true(model: Trained) -> Any:
    """Each row held out: what was predicted over what came. Below the line fewer were foretold than came."""
    figure, axes = _figure("true", "predicted", f"{model.name}: {model.holdout.name}")
    axes.scatter(model.holdout.truth, model.predictions, s=6, alpha=0.35, linewidths=0)
    high = float(max(model.holdout.truth.max(), model.predictions.max()))
    axes.plot([0, high], [0, high], color="black", linewidth=0.8)
    return figure


def residuals(model: Trained) -> Any:
    """What was missed in each row held out, in their order, and the mean of each cluster: a model that grows old leaves
    the line."""
    errors = model.holdout.truth - model.predictions
    figure, axes = _figure("row held out, in order of time", "true − predicted", f"{model.name}: {model.holdout.name}")
    axes.scatter(range(len(errors)), errors, s=6, alpha=0.35, linewidths=0)
    middles, means = _cluster_means(model.holdout.clusters, errors)
    axes.plot(middles, means, color="tab:orange", linewidth=1.2)
    axes.axhline(0, color="black", linewidth=0.8)
    return figure


def feature_importance(model: Trained) -> Any:
    """By how much the score falls when a column is shuffled among the rows held out."""
    names, means, spreads = _importance(model)
    figure, axes = _figure("loss of the model's score when shuffled", "", f"{model.name}: what its errors depend on")
    axes.barh(names, means, xerr=spreads, color="tab:blue", ecolor="black")
    axes.tick_params(axis="y", labelsize=8)
    return figure


def _importance(model: Trained) -> tuple[list[str], list[float], list[float]]:
    """Columns with mean and spread of the loss, the most important last."""
    import numpy as np
    from sklearn.inspection import permutation_importance

    rows = np.random.default_rng(0).permutation(len(model.holdout))[:_MOST_ROWS]
    with one_thread():
        found = permutation_importance(
            model.estimator, model.holdout.features.iloc[rows], model.holdout.truth[rows], n_repeats=_REPEATS,
            random_state=0,
        )  # fmt: skip
    order = np.argsort(found.importances_mean)
    names = [model.schema.names[i] for i in order]
    return names, found.importances_mean[order].tolist(), found.importances_std[order].tolist()


def _cluster_means(clusters: Any, values: Any) -> tuple[list[float], list[float]]:
    """For each cluster the middle of its places, and the mean of its values."""
    places: dict[str, list[int]] = {}
    for place, cluster in enumerate(clusters):
        places.setdefault(cluster, []).append(place)
    return (
        [sum(of_cluster) / len(of_cluster) for of_cluster in places.values()],
        [float(values[of_cluster].mean()) for of_cluster in places.values()],
    )


def _figure(x: str, y: str, title: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws by itself, whatever pyplot is set to elsewhere
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=9)
    return figure, axes
