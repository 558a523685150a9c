"""Evaluation runs: suites run over prompt and model versions, recorded, compared and gated.

`llmops.evaluation` has the measures and knows no store; here they meet the registry, the engines and MLflow.
"""
