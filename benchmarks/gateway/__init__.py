"""The gateway against a bare pass-through and LiteLLM's proxy; what it loses, keeps and costs under load."""
