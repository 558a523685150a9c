"""Engines turn a rendered prompt into an answer. `protocol` defines the interface; `opening` selects and loads one."""
