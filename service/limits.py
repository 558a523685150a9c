"""The most of a thing that one request may ask for, and one answer may hold."""

from __future__ import annotations

MOST_MESSAGES = 256

MOST_ANSWERS = 16
"""The largest `n`."""

MOST_TOOL_CALLS = 128
"""Tools of a request, and calls of one answer."""
