"""The advanced lab: the lifecycle of an LLM release, as a durable pipeline and as a demo."""
