"""Commands of the monitor, and those that tell it of a promotion or of deleted records."""
