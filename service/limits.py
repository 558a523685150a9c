"""The most of a thing that one request may ask for, and one answer may hold."""

from __future__ import annotations

from llmops.engines.answer import MOST_TOOL_CALLS

MOST_MESSAGES = 256

MOST_ANSWERS = 16
"""The largest `n`."""

MOST_TOOLS = MOST_TOOL_CALLS
"""Tools that a request may offer, and calls that a turn sent back may hold."""
