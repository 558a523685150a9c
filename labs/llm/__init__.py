"""The advanced module of the workshop: the life of an LLM's release, as a durable pipeline and as a demo."""
