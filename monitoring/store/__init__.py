"""Store: follows the log, computes descriptors once, keeps them as segments and hourly summaries, reads any window."""
