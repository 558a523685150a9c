"""The picture of a replay: the error of each window, with the alarms, the promotions, and what would have been."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labs.lab import Lab

_SERVED, _UNCHANGED, _ALARM = "#1f6fb4", "#8a8a8a", "#c62828"
_UNITS = {"bike": "RMSE, rentals an hour", "wine": "share of wrong cultivars"}


def errors_of(lab: Lab, ref: str) -> dict[str, float]:
    """The error of every window, had `ref` (`bike@1`) answered all of them.

    Raises:
        UnknownVersion: no such version. CannotRun: it cannot be loaded. StoreUnavailable.
    """
    model, errors = lab.model(ref), {}
    for name in lab.windows():
        rows = lab.window(name)
        predictions = _as_truth(model.predict(rows.rows()).values, rows.truth)
        errors[name] = lab.error_of(lab.evaluate_rows(rows, predictions))
    return errors


def replay_figure(result: Mapping[str, Any], unchanged: Mapping[str, float] | None = None) -> Any:
    """A matplotlib Figure that draws by itself.

    result: what `llmops lab NAME --json` prints; read are `lab`, and `window`, `error` and `alarm` of `monitoring`, and
    `at` and `to` of `retrained`. unchanged: by window the error that the first version would have had (`errors_of`).
    """
    figure, axes = _figure(result["lab"])
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
    _mark_promotions(axes, names, result["retrained"])
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def _mark_promotions(axes: Any, names: Sequence[str], promotions: Sequence[Mapping[str, Any]]) -> None:
    """A line after the window at whose end the new version took over."""
    top = axes.get_ylim()[1]
    for each in promotions:
        place = names.index(each["at"]) + 0.5
        axes.axvline(place, color=_SERVED, linewidth=0.9, linestyle=":")
        axes.text(place + 0.08, top * 0.98, f"{each['to']} ▸", color=_SERVED, fontsize=8, va="top")


def _as_truth(values: Sequence[Any], truth: Any) -> Any:
    import numpy as np

    return np.asarray(values, dtype=truth.dtype)


def _figure(lab: str) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 3.6), dpi=100, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # draws by itself, whatever pyplot is set to elsewhere
    axes = figure.add_subplot()
    axes.set_ylabel(_UNITS.get(lab, "error"))
    axes.tick_params(axis="x", labelsize=8, rotation=30)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_axisbelow(True)
    return figure, axes
