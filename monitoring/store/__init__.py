"""Describe once: follows the log, keeps values as segments and hourly summaries, reads any window."""
