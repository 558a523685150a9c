"""Model files: their sources, their storage by sha256, and requantising."""
