"""What an OpenAI-compatible server can do as an upstream, seen from its answers and never from its documentation."""

from llmops.engine_check.check import check, chosen_model

__all__ = ["check", "chosen_model"]
