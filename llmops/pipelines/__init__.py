"""Durable pipelines on DBOS: a finished step is never repeated, even if the process is killed in between."""

from llmops.pipelines.pipeline import Pipeline, PipelineRun, Recorder, StepFailed, StepRecord, Steps
from llmops.pipelines.running import Pipelines

__all__ = ["Pipeline", "PipelineRun", "Pipelines", "Recorder", "StepFailed", "StepRecord", "Steps"]
