"""Engines: what turns a rendered prompt into an answer. `protocol` says what one is, `opening` picks and loads one."""
