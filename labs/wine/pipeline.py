"""The wine lab as a pipeline: `llmops pipeline run wine`."""

from __future__ import annotations

from labs.lifecycle import lab_pipeline
from labs.wine.lab import WineLab
from llmops.pipelines import Pipeline
from llmops.settings import Settings


def pipeline(settings: Settings) -> Pipeline:
    """The lab from data to a monitored model."""
    return lab_pipeline(
        WineLab, settings, "the wine lab: from data to a monitored model, trained again when drift hurts"
    )
