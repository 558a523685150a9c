"""Evaluation runs: suites run over prompt and model versions, recorded, compared and gated.

`llmops.evaluation` has the measures and uses no store; this package connects them to registry, engines and MLflow.
"""
