"""What is shown of a model: its run in MLflow, with data, metrics, pictures and the model; and the picture of a replay.

Pictures are matplotlib Figures that draw by themselves, whatever pyplot is set to elsewhere.
"""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from labs.data import LabelledRows, QualityReport
from labs.evaluation import numbers
from labs.training import Trained, one_thread
from llmops.evaluation.scorers.classification import confusion_figure
from llmops.recording.tabular import UsedData, record_training
from llmops.registry.releases import LoggedTabular
from llmops.registry.store import Store

_EXAMPLE_ROWS = 5
_REPEATS = 3
_MOST_ROWS = 500  # of the rows held out: shuffling a column asks for as many predictions again
_SERVED, _UNCHANGED, _ALARM = "#1f6fb4", "#8a8a8a", "#c62828"
_UNITS = {"bike": "RMSE, rentals an hour", "wine": "share of wrong cultivars", "insurance": "mean Poisson deviance"}


def record(
    store: Store,
    lab: str,
    model: Trained,
    quality: QualityReport,
    cycle: str,
    pictures: Mapping[str, Any] | None = None,
) -> LoggedTabular:
    """Writes the run of one model into the lab's experiment, with everything it was made of and found to be.

    pictures: of the lab's own, by file name.

    Raises:
        CannotRun: the model cannot be written as skops. StoreUnavailable.
    """
    files = {
        "data_quality.md": quality.to_markdown(),
        "data_quality.json": json.dumps(quality.to_json(), indent=2),
        "metrics.json": json.dumps({name: metric.to_json() for name, metric in model.metrics.items()}, indent=2),
    }
    if model.search is not None:
        files["search.json"] = json.dumps(model.search.to_json(), indent=2)

    def used(rows: LabelledRows, context: str) -> UsedData:
        return UsedData(rows.name, rows.frame, rows.sha256, rows.source, context)

    sizes = {"rows_trained_on": len(model.training), "rows_held_out": len(model.holdout)}
    return record_training(
        store,
        experiment=lab,
        run_name=f"{model.name} on {model.training.name}",
        estimator=model.estimator,
        schema=model.schema,
        example=model.holdout.features.head(_EXAMPLE_ROWS),
        parameters={"candidate": model.name, **model.parameters, **sizes},
        metrics=numbers(model.metrics),
        figures={**figures(model), **(pictures or {})},
        files=files,
        datasets=[used(model.training, "training"), used(model.holdout, "test")],
        tags={"llmops.lab": lab, "llmops.candidate": model.name, "llmops.cycle": cycle},
    )


def figures(model: Trained) -> dict[str, Any]:
    """All pictures of a model on the rows held out by file name: where its errors lie, and what they depend on."""
    importance = {"feature_importance.png": _feature_importance(model)}
    truth, predictions, title = model.holdout.truth, model.predictions, f"{model.name}: {model.holdout.name}"
    if model.schema.task == "classification":
        confused = Counter(zip(map(str, truth), map(str, predictions), strict=True))
        return {"confusion.png": confusion_figure(confused), **importance}
    compared, axes = figure_of("true", "predicted", title)  # below the line fewer were foretold than came
    axes.scatter(truth, predictions, s=6, alpha=0.35, linewidths=0)
    high = float(max(truth.max(), predictions.max()))
    axes.plot([0, high], [0, high], color="black", linewidth=0.8)
    # What was missed, in order, and the mean of each cluster: a model that grows old leaves the line.
    residuals, axes = figure_of("row held out, in order of time", "true − predicted", title)
    errors = truth - predictions
    axes.scatter(range(len(errors)), errors, s=6, alpha=0.35, linewidths=0)
    clusters: dict[str, list[int]] = {}
    for place, cluster in enumerate(model.holdout.clusters):
        clusters.setdefault(cluster, []).append(place)
    middles = [sum(places) / len(places) for places in clusters.values()]
    means = [float(errors[places].mean()) for places in clusters.values()]
    axes.plot(middles, means, color="tab:orange", linewidth=1.2)
    axes.axhline(0, color="black", linewidth=0.8)
    return {"predicted_vs_true.png": compared, "residuals.png": residuals, **importance}


def _feature_importance(model: Trained) -> Any:
    """By how much the score falls when a column is shuffled among the rows held out; the most important on top."""
    from sklearn.inspection import permutation_importance

    rows = np.random.default_rng(0).permutation(len(model.holdout))[:_MOST_ROWS]
    features, truth = model.holdout.features.iloc[rows], model.holdout.truth[rows]
    with one_thread():
        importance = permutation_importance(model.estimator, features, truth, n_repeats=_REPEATS, random_state=0)
    order = np.argsort(importance.importances_mean)
    names = [model.schema.names[i] for i in order]
    figure, axes = figure_of("loss of the model's score when shuffled", "", f"{model.name}: what its errors depend on")
    means, deviations = importance.importances_mean[order], importance.importances_std[order]
    axes.barh(names, means, xerr=deviations, color="tab:blue", ecolor="black")
    axes.tick_params(axis="y", labelsize=8)
    return figure


def replay_figure(result: Mapping[str, Any], unchanged: Mapping[str, float] | None = None) -> Any:
    """The error of each window, with the alarms, the promotions, and what would have been.

    result: what `llmops lab NAME --json` prints; read are `lab`, and `window`, `error` and `alarm` of `monitoring`, and
        `at` and `to` of `retrained`.
    unchanged: by window the error that the first version would have had.
    """
    figure, axes = figure_of("", _UNITS.get(result["lab"], "error"), "", size=(7.6, 3.6))
    axes.tick_params(axis="x", labelsize=8, rotation=30)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    looked = result["monitoring"]
    names = [each["window"] for each in looked]
    errors = [each["error"] for each in looked]
    if unchanged is not None:
        label = "never retrained"
        axes.plot(names, [unchanged[name] for name in names], "o--", color=_UNCHANGED, markersize=4, label=label)
    axes.plot(names, errors, "o-", color=_SERVED, linewidth=2, label="served, retrained after alarms")
    alarms = [place for place, each in enumerate(looked) if each["alarm"]]
    axes.scatter(alarms, [errors[place] for place in alarms], s=90, marker="X", color=_ALARM, zorder=3, label="alarm")
    axes.set_ylim(bottom=0, top=1.15 * axes.get_ylim()[1])
    top = axes.get_ylim()[1]
    for each in result["retrained"]:  # a line after the window at whose end the new version took over
        place = names.index(each["at"]) + 0.5
        axes.axvline(place, color=_SERVED, linewidth=0.9, linestyle=":")
        axes.text(place + 0.08, top * 0.98, f"{each['to']} ▸", color=_SERVED, fontsize=8, va="top")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def figure_of(x: str, y: str, title: str, size: tuple[float, float] = (6.4, 4.2)) -> tuple[Any, Any]:
    """A matplotlib Figure that draws by itself, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=9)
    return figure, axes
