"""The gateway: serves releases over an OpenAI-compatible HTTP API. Importing it has no side effects."""
