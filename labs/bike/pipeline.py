"""The bike lab as a pipeline: `llmops pipeline run bike`."""

from __future__ import annotations

from labs.bike.lab import BikeLab
from labs.lifecycle import lab_pipeline
from llmops.pipelines import Pipeline
from llmops.settings import Settings


def pipeline(settings: Settings) -> Pipeline:
    """The lab from data to a monitored model."""
    return lab_pipeline(
        BikeLab, settings, "the bike lab: from data to a monitored model, trained again when drift hurts"
    )
