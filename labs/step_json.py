"""What the steps of a lab hand to each other, as plain JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labs.training import Trained
    from llmops.recording.tabular import LoggedTabular
    from llmops.versions import TabularVersion

Json = dict[str, Any]


def without_comparison(verdict: str, why: str, champion: str) -> Json:
    """Of a gate that had nothing to compare."""
    told = {"verdict": verdict, "reasons": [why], "against": champion, "compared_with": champion}
    return {**told, "rules": None, "comparison": None}


def known(version: TabularVersion) -> Json:
    """What the steps know of a registered version."""
    kept = {name: version.provenance[name] for name in ("trained_on", "candidate", "parameters")}
    return {"ref": version.ref, "run_id": version.run_id, **kept}


def candidate_in(trained: Json, name: str) -> Json:
    """One of the models that were trained."""
    return next(model for model in trained["models"] if model["candidate"] == name)


def told_of(model: Trained) -> Json:
    """What is known of a trained model, as JSON."""
    return {
        "candidate": model.name,
        "parameters": dict(model.parameters),
        "cross_validation_loss": model.search.best.loss if model.search else None,
        "rows": {"training": len(model.training), "held_out": len(model.holdout)},
        "metrics": {name: metric.to_json() for name, metric in model.metrics.items()},
    }


def logged_json(logged: LoggedTabular) -> Json:
    from dataclasses import asdict

    return asdict(logged)


def logged_from(values: Json) -> LoggedTabular:
    from llmops.recording.tabular import LoggedTabular

    return LoggedTabular(**values)


def plain(values: Any) -> list[Any]:
    """A numpy array as a list of plain values."""
    return list(values.tolist() if hasattr(values, "tolist") else values)
