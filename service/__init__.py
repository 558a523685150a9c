"""The gateway: releases served over an OpenAI-compatible HTTP interface. Nothing runs on import."""
