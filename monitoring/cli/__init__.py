"""Commands of the monitor, and those that notify it of a promotion or of deleted records."""
